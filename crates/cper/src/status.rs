//! Generic error status blocks: what the firmware leaves in memory for the operating system to find
//! (ACPI 6.5, 18.3.2.7.1).

use alloc::vec::Vec;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32};

use crate::error::Error;
use crate::guid::Guid;
use crate::input::Input;
use crate::record::until_zero;
use crate::section::Section;
use crate::severity::Severity;
use crate::time::Timestamp;
use crate::wire::{when_valid, wire};

wire! {
    /// What a status block starts with (ACPI 6.5, table 18.13).
    pub struct StatusHeader: 20 {
        /// Bit 0: uncorrected error, bit 1: corrected error, bits 2 and 3: several of them,
        /// bits 13:4: how many data entries. All zero: the block holds nothing.
        pub block_status: U32,
        /// First byte of the raw data, from the start of the block; it lies behind the entries.
        pub raw_data_offset: U32,
        /// Bytes of raw data.
        pub raw_data_length: U32,
        /// Bytes in the data entries.
        pub data_length: U32,
        /// [`Severity`] of the worst entry.
        pub severity: U32,
    }
}

wire! {
    /// What a data entry starts with (ACPI 6.5, table 18.14). One of revision 0x300 or later goes on
    /// with a [`Timestamp`].
    pub struct DataEntryHeader: 64 {
        /// What the section is: see [`section_type`](crate::guid::section_type).
        pub section_type: Guid,
        /// [`Severity`] of this entry.
        pub severity: U32,
        /// Major revision in the high byte, minor in the low one.
        pub revision: U16,
        /// Bit 0: FRU id, bit 1: FRU text, bit 2: time stamp.
        pub validation: u8,
        /// As the flags of a [`SectionDescriptor`](crate::record::SectionDescriptor).
        pub flags: u8,
        /// Bytes in the section.
        pub data_length: U32,
        /// The field-replaceable unit that failed.
        pub fru_id: Guid,
        /// The field-replaceable unit in ASCII, ended by a zero byte unless it is full.
        pub fru_text: [u8; 20],
    }
}

impl StatusHeader {
    /// Data entries that the block says it has: bits 13:4 of its status.
    pub fn entry_count(&self) -> u32 {
        self.block_status.get() >> 4 & 0x3ff
    }

    /// How bad the worst of it is.
    pub fn severity(&self) -> Severity {
        self.severity.get().into()
    }
}

impl DataEntryHeader {
    when_valid! {
        /// The field-replaceable unit that failed.
        fru_id: Guid = 0 => |this| this.fru_id;
        /// The field-replaceable unit in ASCII, without its end.
        fru_text: &[u8] = 1 => |this| until_zero(&this.fru_text);
    }

    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.severity.get().into()
    }

    /// Whether a time stamp lies between this and the section.
    pub fn has_timestamp(&self) -> bool {
        self.revision.get() >= 0x300
    }
}

/// A status block, seen where it lies.
#[derive(Debug, Clone, Copy)]
pub struct StatusBlock<'a> {
    header: &'a StatusHeader,
    entries: Input<'a>,
    raw_data: &'a [u8],
}

/// One data entry of a status block.
#[derive(Debug, Clone, Copy)]
pub struct DataEntry<'a> {
    /// What it says of itself.
    pub header: &'a DataEntryHeader,
    /// The time stamp's bytes, which entries of revision 0x300 have, valid or not.
    pub timestamp: Option<&'a Timestamp>,
    /// The section's bytes.
    pub bytes: &'a [u8],
    /// What they mean.
    pub section: Result<Section<'a>, Error>,
}

impl DataEntry<'_> {
    /// When the error was recorded; `None` where that is not said.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.timestamp
            .copied()
            .filter(|_| self.header.validation & 4 != 0)
    }
}

impl<'a> StatusBlock<'a> {
    /// Sees the status block at the start of `bytes`; more may follow it.
    ///
    /// # Errors
    ///
    /// Where the block leads out of `bytes`, or its raw data overlaps its entries, which Linux
    /// refuses too (drivers/firmware/efi/cper.c, `cper_estatus_check_header`).
    #[inline]
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::read_at(bytes, 0)
    }

    /// The same, of bytes that start at `offset` of the whole, by which errors are told.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    #[inline]
    pub fn read_at(bytes: &'a [u8], offset: usize) -> Result<Self, Error> {
        let mut input = Input::new(bytes, offset);
        let header: &StatusHeader = input.take("a generic error status block")?;
        let entries_offset = input.offset;
        let length = header.data_length.get() as usize;
        let entries = input.take_bytes(length, "the data entries of a status block")?;
        let entries = Input::new(entries, entries_offset);
        let raw = header.raw_data_offset.get();
        let raw_length = header.raw_data_length.get() as usize;
        let wrong =
            |problem| Error::field(offset + 4, "the raw data's offset", raw.into(), problem);
        let raw_data = if raw_length == 0 {
            &[]
        } else {
            let begin = raw as usize;
            if begin < entries_offset - offset + length {
                return Err(wrong("lies inside the data entries"));
            }
            begin
                .checked_add(raw_length)
                .and_then(|end| bytes.get(begin..end))
                .ok_or_else(|| wrong("with its length leads out of the input"))?
        };
        Ok(Self {
            header,
            entries,
            raw_data,
        })
    }

    /// What the block says of itself.
    pub fn header(&self) -> &'a StatusHeader {
        self.header
    }

    /// Bytes in a format of the firmware's own.
    pub fn raw_data(&self) -> &'a [u8] {
        self.raw_data
    }

    /// Bytes from the start of the block to the end of what belongs to it.
    pub fn len(&self) -> usize {
        let entries = size_of::<StatusHeader>() + self.entries.bytes.len();
        match self.raw_data.len() {
            0 => entries,
            raw => self.header.raw_data_offset.get() as usize + raw,
        }
    }

    /// Whether the block holds no entries and no raw data.
    pub fn is_empty(&self) -> bool {
        self.entries.bytes.is_empty() && self.raw_data.is_empty()
    }

    /// Whether its status is 0: it holds no error, or none that has not been read.
    pub fn is_read(&self) -> bool {
        self.header.block_status.get() == 0
    }

    /// Its data entries, in order. The first that is damaged is the last that is given, because
    /// where the next would start is not known then.
    pub fn entries(&self) -> Entries<'a> {
        Entries {
            input: self.entries,
        }
    }

    /// Checks what can be checked without knowing the sections: that the entries fill the block
    /// exactly and are as many as it says. What lies in a block whose status is 0 does not count: that is
    /// what Linux sets it to when it has read the block (drivers/acpi/apei/ghes.c,
    /// `ghes_clear_estatus`), and nothing else is cleared.
    ///
    /// # Errors
    ///
    /// Says the first thing that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        if self.is_read() {
            return Ok(());
        }
        let mut found = 0_u32;
        for entry in self.entries() {
            entry?;
            found += 1;
        }
        if found == self.header.entry_count() {
            return Ok(());
        }
        Err(Error::field(
            self.entries.offset - size_of::<StatusHeader>(),
            "the block's entry count",
            self.header.entry_count().into(),
            "is not how many entries it has",
        ))
    }
}

/// The data entries of a status block.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    input: Input<'a>,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<DataEntry<'a>, Error>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.input.bytes.is_empty() {
            return None;
        }
        let entry = read_entry(&mut self.input);
        if entry.is_err() {
            self.input.bytes = &[];
        }
        Some(entry)
    }
}

// Inlined into the programs that read, as all of the way to a section is: it halves the time.
#[inline]
fn read_entry<'a>(input: &mut Input<'a>) -> Result<DataEntry<'a>, Error> {
    let header: &DataEntryHeader = input.take("a generic error data entry")?;
    let timestamp = match header.has_timestamp() {
        true => Some(input.take("a data entry's time stamp")?),
        false => None,
    };
    let begin = input.offset;
    let length = header.data_length.get() as usize;
    let bytes = input.take_bytes(length, "a data entry's section")?;
    Ok(DataEntry {
        header,
        timestamp,
        bytes,
        section: Section::read_at(header.section_type, bytes, begin),
    })
}

/// A status block being written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusBlockBuilder {
    severity: Severity,
    count: u32,
    entries: Vec<u8>,
    raw_data: Vec<u8>,
}

impl StatusBlockBuilder {
    /// A status block of that severity without entries.
    pub fn new(severity: Severity) -> Self {
        Self {
            severity,
            count: 0,
            entries: Vec::new(),
            raw_data: Vec::new(),
        }
    }

    /// Adds an entry; its length is filled in. The time stamp is written where the header's revision
    /// is 0x300 or later.
    ///
    /// # Panics
    ///
    /// Where the section has 4 GiB or more.
    pub fn entry(
        &mut self,
        header: DataEntryHeader,
        timestamp: Timestamp,
        section: &[u8],
    ) -> &mut Self {
        let length = u32::try_from(section.len()).expect("a section is far below 4 GiB");
        let header = DataEntryHeader {
            data_length: length.into(),
            ..header
        };
        self.entries.extend_from_slice(header.as_bytes());
        if header.has_timestamp() {
            self.entries.extend_from_slice(timestamp.as_bytes());
        }
        self.entries.extend_from_slice(section);
        self.count += 1;
        self
    }

    /// Sets the raw data, which lies behind the entries.
    pub fn raw_data(&mut self, bytes: &[u8]) -> &mut Self {
        self.raw_data = bytes.to_vec();
        self
    }

    /// The block's bytes; `None` where they are more than a block can count, 1023 entries or 4 GiB.
    pub fn build(&self) -> Option<Vec<u8>> {
        if self.count > 0x3ff {
            return None;
        }
        let uncorrected = matches!(self.severity, Severity::Recoverable | Severity::Fatal);
        let several = self.count > 1;
        let kind = match (self.count, uncorrected) {
            (0, _) => 0,
            (_, true) => 1 | u32::from(several) << 2,
            (_, false) => 2 | u32::from(several) << 3,
        };
        let end = size_of::<StatusHeader>() + self.entries.len();
        let raw_offset = if self.raw_data.is_empty() { 0 } else { end };
        let header = StatusHeader {
            block_status: (kind | self.count << 4).into(),
            raw_data_offset: u32::try_from(raw_offset).ok()?.into(),
            raw_data_length: u32::try_from(self.raw_data.len()).ok()?.into(),
            data_length: u32::try_from(self.entries.len()).ok()?.into(),
            severity: u32::from(self.severity).into(),
        };
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&self.entries);
        bytes.extend_from_slice(&self.raw_data);
        Some(bytes)
    }
}
