//! Records: what the firmware, ERST and pstore keep of an error (UEFI 2.10, appendix N.2).

use alloc::vec::Vec;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

use crate::error::{Error, Reason};
use crate::guid::Guid;
use crate::input::Input;
use crate::section::Section;
use crate::severity::Severity;
use crate::time::Timestamp;
use crate::wire::{when_valid, wire};

/// The first four bytes of a record.
pub const SIGNATURE: [u8; 4] = *b"CPER";
/// What follows the revision in every record.
const SIGNATURE_END: u32 = u32::MAX;

wire! {
    /// What every record starts with (UEFI 2.10, N.2.1).
    pub struct RecordHeader: 128 {
        /// `CPER`.
        pub signature: [u8; 4],
        /// Major revision in the high byte, minor in the low one; 0x0101 now.
        pub revision: U16,
        /// All ones.
        pub signature_end: U32,
        /// How many sections there are.
        pub section_count: U16,
        /// [`Severity`] of the worst section.
        pub severity: U32,
        /// Bit 0: platform, bit 1: time stamp, bit 2: partition.
        pub validation: U32,
        /// Bytes in the record, the header included.
        pub record_length: U32,
        /// When the record was made.
        pub timestamp: Timestamp,
        /// The platform, by a GUID of its own.
        pub platform_id: Guid,
        /// The software partition that was hit.
        pub partition_id: Guid,
        /// Who made the record.
        pub creator_id: Guid,
        /// How the error was notified: see [`notification_type`](crate::guid::notification_type).
        pub notification_type: Guid,
        /// A number that the creator gives to one record only.
        pub record_id: U64,
        /// 1: recovered, 2: of an earlier boot, 4: simulated.
        pub flags: U32,
        /// Set and used by whoever keeps the record.
        pub persistence: U64,
        /// Zero.
        pub reserved: [u8; 12],
    }
}

wire! {
    /// Where a section lies and what it is (UEFI 2.10, N.2.2).
    pub struct SectionDescriptor: 72 {
        /// First byte of the section, from the start of the record.
        pub section_offset: U32,
        /// Bytes in it.
        pub section_length: U32,
        /// Major revision in the high byte, minor in the low one.
        pub revision: U16,
        /// Bit 0: FRU id, bit 1: FRU text.
        pub validation: u8,
        /// Zero.
        pub reserved: u8,
        /// Bits, from 0: primary, containment warning, reset, threshold exceeded, resource not
        /// accessible, latent, propagated, overflow.
        pub flags: U32,
        /// What the section is: see [`section_type`](crate::guid::section_type).
        pub section_type: Guid,
        /// The field-replaceable unit that failed.
        pub fru_id: Guid,
        /// [`Severity`] of this section.
        pub severity: U32,
        /// The field-replaceable unit in ASCII, ended by a zero byte unless it is full.
        pub fru_text: [u8; 20],
    }
}

/// Names of the bits of [`SectionDescriptor::flags`], from bit 0.
pub const SECTION_FLAGS: [&str; 8] = [
    "primary",
    "containmentWarning",
    "reset",
    "errorThresholdExceeded",
    "resourceNotAccessible",
    "latentError",
    "propagated",
    "overflow",
];

impl RecordHeader {
    when_valid! {
        /// The platform.
        platform_id: Guid = 0 => |this| this.platform_id;
        /// When the record was made.
        timestamp: Timestamp = 1 => |this| this.timestamp;
        /// The software partition that was hit.
        partition_id: Guid = 2 => |this| this.partition_id;
    }

    /// How bad the worst of it is.
    pub fn severity(&self) -> Severity {
        self.severity.get().into()
    }
}

impl SectionDescriptor {
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
}

/// The bytes before the first zero.
pub(crate) fn until_zero(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A record, seen where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    header: &'a RecordHeader,
    descriptors: &'a [SectionDescriptor],
    /// The record alone, without what follows it.
    bytes: &'a [u8],
    offset: usize,
}

/// A section of a record, with what is said of it.
#[derive(Debug, Clone, Copy)]
pub struct RecordSection<'a> {
    /// Its descriptor.
    pub descriptor: &'a SectionDescriptor,
    /// All its bytes.
    pub bytes: &'a [u8],
    /// What they mean.
    pub section: Result<Section<'a>, Error>,
}

impl<'a> Record<'a> {
    /// Sees the record at the start of `bytes`; more may follow it.
    ///
    /// # Errors
    ///
    /// Where the header or the descriptors are not there or contradict themselves. What is wrong
    /// with one section is said by that section alone.
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
        let header: &RecordHeader = input.take("a record header")?;
        if header.signature != SIGNATURE || header.signature_end != SIGNATURE_END {
            let reason = Reason::Signature {
                what: "a record",
                expected: "CPER",
            };
            return Err(Error { offset, reason });
        }
        let length = header.record_length.get();
        let wrong =
            |problem| Error::field(offset + 20, "the record's length", length.into(), problem);
        let whole = usize::try_from(length)
            .ok()
            .and_then(|length| bytes.get(..length))
            .ok_or_else(|| wrong("is more than there is"))?;
        let in_descriptors = whole
            .get(size_of::<RecordHeader>()..)
            .ok_or_else(|| wrong("is less than a header"))?;
        let descriptors = Input::new(in_descriptors, offset + size_of::<RecordHeader>())
            .take_many(header.section_count.get().into(), "section descriptors")?;
        Ok(Self {
            header,
            descriptors,
            bytes: whole,
            offset,
        })
    }

    /// What the record says of itself.
    pub fn header(&self) -> &'a RecordHeader {
        self.header
    }

    /// The record's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its sections, in order.
    #[inline]
    pub fn sections(&self) -> impl ExactSizeIterator<Item = RecordSection<'a>> + use<'a> {
        let Self { bytes, offset, .. } = *self;
        self.descriptors
            .iter()
            .enumerate()
            .map(move |(place, descriptor)| {
                let found = section_bytes(bytes, descriptor).ok_or_else(|| {
                    let at =
                        offset + size_of::<RecordHeader>() + place * size_of::<SectionDescriptor>();
                    Error::field(
                        at,
                        "a section's offset",
                        descriptor.section_offset.get().into(),
                        "with its length leads out of the record",
                    )
                });
                let section = found.and_then(|bytes| {
                    // The section lies in the record, so this is an offset in the input.
                    let begin = offset + descriptor.section_offset.get() as usize;
                    Section::read_at(descriptor.section_type, bytes, begin)
                });
                RecordSection {
                    descriptor,
                    bytes: found.unwrap_or_default(),
                    section,
                }
            })
    }
}

fn section_bytes<'a>(record: &'a [u8], descriptor: &SectionDescriptor) -> Option<&'a [u8]> {
    let begin = usize::try_from(descriptor.section_offset.get()).ok()?;
    let length = usize::try_from(descriptor.section_length.get()).ok()?;
    record.get(begin..begin.checked_add(length)?)
}

/// A record being written: a header, and sections one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBuilder {
    /// What the record says of itself. Signatures, lengths and counts are filled in at the end.
    pub header: RecordHeader,
    sections: Vec<(SectionDescriptor, Vec<u8>)>,
}

impl RecordBuilder {
    /// A record of revision 1.1 without sections.
    pub fn new(severity: Severity, notification_type: Guid) -> Self {
        let header = RecordHeader {
            revision: 0x0101.into(),
            severity: u32::from(severity).into(),
            notification_type,
            ..RecordHeader::default()
        };
        Self {
            header,
            sections: Vec::new(),
        }
    }

    /// Adds a section, of the type that its descriptor says. Its place and length are filled in at
    /// the end.
    pub fn section(&mut self, descriptor: SectionDescriptor, bytes: &[u8]) -> &mut Self {
        self.sections.push((descriptor, bytes.to_vec()));
        self
    }

    /// The record's bytes; `None` where they are more than a record can count, 65535 sections or
    /// 4 GiB.
    pub fn build(&self) -> Option<Vec<u8>> {
        let descriptors = self.sections.len() * size_of::<SectionDescriptor>();
        let mut begin = size_of::<RecordHeader>() + descriptors;
        let mut bytes = RecordHeader {
            signature: SIGNATURE,
            signature_end: SIGNATURE_END.into(),
            section_count: u16::try_from(self.sections.len()).ok()?.into(),
            ..self.header
        }
        .as_bytes()
        .to_vec();
        for (descriptor, section) in &self.sections {
            let descriptor = SectionDescriptor {
                section_offset: u32::try_from(begin).ok()?.into(),
                section_length: u32::try_from(section.len()).ok()?.into(),
                ..*descriptor
            };
            bytes.extend_from_slice(descriptor.as_bytes());
            begin += section.len();
        }
        for (_, section) in &self.sections {
            bytes.extend_from_slice(section);
        }
        let length = U32::new(u32::try_from(bytes.len()).ok()?);
        let (header, _) = RecordHeader::mut_from_prefix(&mut bytes).ok()?;
        header.record_length = length;
        Some(bytes)
    }
}

impl From<&Record<'_>> for RecordBuilder {
    /// A record with the same header and sections, without gaps between them.
    fn from(record: &Record<'_>) -> Self {
        let sections = record
            .sections()
            .map(|section| (*section.descriptor, section.bytes.to_vec()));
        Self {
            header: *record.header,
            sections: sections.collect(),
        }
    }
}
