//! The ledger as bytes: complete, versioned and checksummed, for a file or a migration stream.
//! `docs/ledger.md` has the layout.

use super::{
    Ledger,
    decode_error::DecodeError,
    frame_set::FrameSet,
    log::{Chunk, Log, MAX_CHUNK, Times},
    packed::{Packed, words_for},
    recipients::Recipient,
};

const MAGIC: &[u8; 8] = b"PMLEDGER";
const VERSION: u32 = 1;
const CHECKSUM_BYTES: usize = 4;

/// Beyond what JSON readers keep exact, and far beyond what memory can lose.
pub(super) const MAX_FIRST_GENERATION: u64 = 1 << 53;

impl Ledger {
    /// The binary form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        let length_at = out.len();
        out.extend(0u64.to_le_bytes());
        out.extend(self.log.generations().start.to_le_bytes());
        out.extend((self.log.chunks().len() as u32).to_le_bytes());
        for chunk in self.log.chunks() {
            write_chunk(&mut out, chunk);
        }
        write_chunk(&mut out, &Chunk::new(0, self.log.tail()));
        out.extend((self.recipients.len() as u32).to_le_bytes());
        for recipient in &self.recipients {
            out.extend((recipient.name.len() as u32).to_le_bytes());
            out.extend(recipient.name.as_bytes());
            out.extend(recipient.cursor.to_le_bytes());
            out.extend((recipient.ahead.len() as u32).to_le_bytes());
            out.extend(recipient.ahead.iter().flat_map(|told| told.to_le_bytes()));
        }
        out.extend((self.entrusted_frames().count() as u64).to_le_bytes());
        out.extend(self.entrusted_frames().flat_map(u64::to_le_bytes));
        let length = (out.len() + CHECKSUM_BYTES) as u64;
        out[length_at..length_at + 8].copy_from_slice(&length.to_le_bytes());
        out.extend(crc32fast::hash(&out).to_le_bytes());
        out
    }

    /// The ledger whose binary form is `bytes`.
    ///
    /// Takes any input: it never panics, and what it allocates is bounded by about a hundred times
    /// the length of the input, which is what a densely packed ledger unpacks to.
    ///
    /// # Errors
    ///
    /// Where `bytes` are not exactly what [`to_bytes`](Self::to_bytes) of a supported version gives.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input { bytes, offset: 0 };
        let magic = bytes.get(..MAGIC.len()).unwrap_or(bytes);
        if !MAGIC.starts_with(magic) {
            return Err(DecodeError::BadMagic);
        }
        input.take(MAGIC.len())?;
        let found = input.u32()?;
        if found != VERSION {
            return Err(DecodeError::UnsupportedVersion {
                found,
                supported: VERSION,
            });
        }
        let length = input.u64()?;
        if length > bytes.len() as u64 {
            return Err(input.truncated_at(bytes.len()));
        }
        if length < bytes.len() as u64 {
            return Err(DecodeError::TrailingBytes { offset: length });
        }
        let Some((content, stored)) = bytes.split_last_chunk::<CHECKSUM_BYTES>() else {
            return Err(input.truncated_at(bytes.len()));
        };
        let (stored, computed) = (u32::from_le_bytes(*stored), crc32fast::hash(content));
        if stored != computed {
            return Err(DecodeError::Checksum { stored, computed });
        }
        input.bytes = content;
        let log = read_log(&mut input)?;
        let recipients = (0..input.u32()?)
            .map(|_| read_recipient(&mut input))
            .collect::<Result<_, _>>()?;
        let mut entrusted = FrameSet::default();
        for _ in 0..input.u64()? {
            entrusted.insert(input.u64()?);
        }
        if input.offset < content.len() {
            return Err(DecodeError::TrailingBytes {
                offset: input.offset as u64,
            });
        }
        Self::from_history(log, recipients, entrusted)
    }
}

fn write_chunk(out: &mut Vec<u8>, chunk: &Chunk) {
    out.extend(chunk.times.start.to_le_bytes());
    for column in [
        &chunk.frames,
        &chunk.causes,
        &chunk.times.at,
        &chunk.times.step,
    ] {
        out.extend(column.base.to_le_bytes());
        out.extend(column.len.to_le_bytes());
        out.extend([column.width, u8::from(column.slope)]);
        out.extend(column.words.iter().flat_map(|word| word.to_le_bytes()));
    }
}

fn read_log(input: &mut Input<'_>) -> Result<Log, DecodeError> {
    let first = input.u64()?;
    if first > MAX_FIRST_GENERATION {
        return Err(DecodeError::Inconsistent {
            generation: first,
            reason: "a generation beyond what memory can lose",
        });
    }
    let mut log = Log::starting_at(first);
    for _ in 0..input.u32()? {
        let generation = log.generations().end;
        let chunk = read_chunk(input, generation)?;
        if chunk.frames.len == 0 {
            return Err(DecodeError::Inconsistent {
                generation,
                reason: "a chunk without records",
            });
        }
        log.adopt(chunk);
    }
    let tail = read_chunk(input, log.generations().end)?;
    tail.records_from(0).for_each(|record| log.push(record));
    Ok(log)
}

fn read_chunk(input: &mut Input<'_>, generation: u64) -> Result<Chunk, DecodeError> {
    let start = input.u64()?;
    let mut column = || read_column(input, generation);
    let (frames, causes, at, step) = (column()?, column()?, column()?, column()?);
    let steps_in_order = || {
        let before = std::iter::once(0).chain(at.iter_from(0));
        before.zip(at.iter_from(0)).all(|(a, b)| a < b)
            && at.iter_from(0).all(|index| index < u64::from(frames.len))
    };
    let reason = if causes.len != frames.len || step.len != at.len {
        "columns of different lengths"
    } else if causes.iter_from(0).any(|cause| cause > 1) {
        "a cause that is not known"
    } else if !steps_in_order() {
        "times out of order"
    } else {
        return Ok(Chunk {
            first: generation,
            frames,
            causes,
            times: Times { start, at, step },
        });
    };
    Err(DecodeError::Inconsistent { generation, reason })
}

fn read_column(input: &mut Input<'_>, generation: u64) -> Result<Packed, DecodeError> {
    let (base, len) = (input.u64()?, input.u32()?);
    let [width, slope] = input.array()?;
    if len > MAX_CHUNK || width > 64 || slope > 1 {
        return Err(DecodeError::Inconsistent {
            generation,
            reason: "a column that nobody writes",
        });
    }
    let words = input.take(words_for(len, width) * 8)?;
    Ok(Packed {
        base,
        words: words
            .as_chunks()
            .0
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .collect(),
        len,
        width,
        slope: slope == 1,
    })
}

fn read_recipient(input: &mut Input<'_>) -> Result<Recipient, DecodeError> {
    let name_len = input.u32()? as usize;
    let name = input.take(name_len)?;
    let cursor = input.u64()?;
    let name = std::str::from_utf8(name).map_err(|_| DecodeError::Inconsistent {
        generation: cursor,
        reason: "a recipient whose name is not UTF-8",
    })?;
    Ok(Recipient {
        name: name.to_owned(),
        cursor,
        ahead: (0..input.u32()?)
            .map(|_| input.u64())
            .collect::<Result<_, _>>()?,
    })
}

/// Bytes that are read from front to back.
struct Input<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let taken = self.bytes[self.offset..]
            .get(..len)
            .ok_or(self.truncated_at(self.bytes.len()))?;
        self.offset += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let truncated = self.truncated_at(self.bytes.len());
        let (array, _) = self.take(N)?.split_first_chunk().ok_or(truncated)?;
        Ok(*array)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    fn truncated_at(&self, offset: usize) -> DecodeError {
        DecodeError::Truncated {
            offset: offset as u64,
        }
    }
}
