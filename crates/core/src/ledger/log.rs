//! The order in which frames were lost, with cause and time: what a migration asks for when it wants
//! only what came since it last looked.
//!
//! Records are numbered by generation. They are gathered in a tail and then sealed, some thousand at
//! a time, into chunks of packed columns, which is what keeps ten million of them small.

use std::ops::Range;

use super::{Cause, packed::Packed};

/// Records after which the tail is sealed.
const CHUNK: usize = 2048;

/// Most records of a chunk. A chunk of consecutive frames takes the same few bytes however long it
/// is; the bound keeps a few bytes of input from claiming terabytes of lost memory.
pub(super) const MAX_CHUNK: u32 = 1 << 15;

/// Consecutive frames from which a chunk of their own takes less than their records in the tail.
const RUN: u64 = 64;

/// One lost frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) frame: u64,
    pub(super) millis: u64,
    pub(super) cause: Cause,
}

/// When the records of a chunk were made, as the places where the time steps on, and by how much.
#[derive(Clone)]
pub(super) struct Times {
    pub(super) start: u64,
    pub(super) at: Packed,
    pub(super) step: Packed,
}

impl Times {
    /// Storms have few steps, which are best kept alone. Single errors step at almost every record,
    /// and then steps of nothing in between are cheaper than the places of the others.
    fn new(millis: impl Iterator<Item = u64> + Clone) -> Self {
        let (few, all) = (
            Self::with_steps(millis.clone(), false),
            Self::with_steps(millis, true),
        );
        if few.heap_bytes() < all.heap_bytes() {
            few
        } else {
            all
        }
    }

    fn with_steps(millis: impl Iterator<Item = u64> + Clone, of_nothing: bool) -> Self {
        let steps = millis
            .clone()
            .zip(millis.clone().skip(1))
            .enumerate()
            .filter(move |(_, (before, after))| of_nothing || before != after);
        Self {
            start: millis.clone().next().unwrap_or_default(),
            at: Packed::new(steps.clone().map(|(index, _)| index as u64 + 1)),
            // Clocks step back: signed steps, with the sign in the lowest bit so that it packs.
            step: Packed::new(steps.map(|(_, (before, after))| {
                let step = after.wrapping_sub(before) as i64;
                (step << 1 ^ step >> 63) as u64
            })),
        }
    }

    /// The times of the records from `first` on, without end.
    fn iter_from(&self, first: usize) -> impl Iterator<Item = u64> {
        let mut steps = self.at.iter_from(0).zip(self.step.iter_from(0)).peekable();
        let mut now = self.start;
        (first as u64..).map(move |index| {
            while let Some((_, step)) = steps.next_if(|&(at, _)| at <= index) {
                now = now.wrapping_add((step >> 1) ^ (step & 1).wrapping_neg());
            }
            now
        })
    }

    fn heap_bytes(&self) -> usize {
        self.at.heap_bytes() + self.step.heap_bytes()
    }
}

/// Sealed records.
#[derive(Clone)]
pub(super) struct Chunk {
    pub(super) first: u64,
    pub(super) frames: Packed,
    pub(super) causes: Packed,
    pub(super) times: Times,
}

impl Chunk {
    pub(super) fn new(first: u64, records: &[Record]) -> Self {
        Self {
            first,
            frames: Packed::new(records.iter().map(|record| record.frame)),
            causes: Packed::new(records.iter().map(|record| record.cause.bit())),
            times: Times::new(records.iter().map(|record| record.millis)),
        }
    }

    fn consecutive(first: u64, frame: u64, len: u32, cause: Cause, millis: u64) -> Self {
        Self {
            first,
            frames: Packed::climbing(frame, len),
            causes: Packed::constant(cause.bit(), len),
            times: Times::new(std::iter::once(millis)),
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.frames.len)
    }

    pub(super) fn records_from(&self, first: usize) -> impl Iterator<Item = Record> {
        self.frames
            .iter_from(first)
            .zip(self.causes.iter_from(first))
            .zip(self.times.iter_from(first))
            .map(|((frame, cause), millis)| Record {
                frame,
                millis,
                cause: Cause::from_bit(cause),
            })
    }

    fn heap_bytes(&self) -> usize {
        self.frames.heap_bytes() + self.causes.heap_bytes() + self.times.heap_bytes()
    }
}

/// The records since the ledger was last cleared.
#[derive(Clone, Default)]
pub(super) struct Log {
    first: u64,
    chunks: Vec<Chunk>,
    tail: Vec<Record>,
}

impl Log {
    /// An empty log whose first record will have the generation `first`.
    pub(super) fn starting_at(first: u64) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    /// The generations of the records it holds.
    pub(super) fn generations(&self) -> Range<u64> {
        self.first..self.sealed_end() + self.tail.len() as u64
    }

    fn sealed_end(&self) -> u64 {
        self.chunks.last().map_or(self.first, Chunk::end)
    }

    pub(super) fn push(&mut self, record: Record) {
        self.tail.push(record);
        if self.tail.len() == CHUNK {
            self.seal();
        }
    }

    /// Records the loss of consecutive frames.
    pub(super) fn push_run(&mut self, frames: Range<u64>, cause: Cause, millis: u64) {
        if frames.end - frames.start < RUN {
            frames.for_each(|frame| {
                self.push(Record {
                    frame,
                    millis,
                    cause,
                });
            });
            return;
        }
        self.seal();
        for frame in frames.clone().step_by(MAX_CHUNK as usize) {
            let len = (frames.end - frame).min(u64::from(MAX_CHUNK)) as u32;
            let first = self.sealed_end();
            self.chunks
                .push(Chunk::consecutive(first, frame, len, cause, millis));
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let chunk = Chunk::new(self.sealed_end(), &self.tail);
            self.chunks.push(chunk);
            self.tail.clear();
        }
    }

    /// Takes over a chunk that was sealed elsewhere. Its first generation is the log's next.
    pub(super) fn adopt(&mut self, chunk: Chunk) {
        self.seal();
        self.chunks.push(chunk);
    }

    /// The records from `generation` on, each with its own, oldest first.
    pub(super) fn since(&self, generation: u64) -> impl Iterator<Item = (u64, Record)> {
        let (chunks, first_in_tail) = self.split_at(generation);
        let sealed = chunks.iter().flat_map(move |chunk| {
            let skip = generation.saturating_sub(chunk.first);
            (chunk.first + skip..).zip(chunk.records_from(skip as usize))
        });
        let tail = self.tail[first_in_tail..].iter().copied();
        sealed.chain((self.sealed_end() + first_in_tail as u64..).zip(tail))
    }

    /// The generation of a frame's record, looked for from `generation` on. Linear in the records
    /// from there, but for stretches of consecutive frames, which count as one.
    pub(super) fn find_since(&self, generation: u64, frame: u64) -> Option<u64> {
        let (chunks, first_in_tail) = self.split_at(generation);
        let sealed = chunks.iter().find_map(|chunk| {
            let skip = generation.saturating_sub(chunk.first) as usize;
            let index = chunk.frames.position(frame, skip)?;
            Some(chunk.first + index as u64)
        });
        sealed.or_else(|| {
            let tail = &self.tail[first_in_tail..];
            let index = tail.iter().position(|record| record.frame == frame)?;
            Some(self.sealed_end() + (first_in_tail + index) as u64)
        })
    }

    /// What holds `generation` and later ones: the chunks, and where in the tail they start.
    fn split_at(&self, generation: u64) -> (&[Chunk], usize) {
        let passed = self
            .chunks
            .partition_point(|chunk| chunk.end() <= generation);
        let in_tail = generation.saturating_sub(self.sealed_end());
        (
            &self.chunks[passed..],
            (in_tail as usize).min(self.tail.len()),
        )
    }

    pub(super) fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    pub(super) fn tail(&self) -> &[Record] {
        &self.tail
    }

    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Chunk>()
            + self.chunks.iter().map(Chunk::heap_bytes).sum::<usize>()
            + self.tail.capacity() * size_of::<Record>()
    }
}
