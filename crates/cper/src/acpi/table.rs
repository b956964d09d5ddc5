//! What all ACPI tables start with (ACPI 6.5, 5.2.6), and which table it is.

use alloc::vec::Vec;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

use super::bert::Bert;
use super::hest::Hest;
use super::instructions::InstructionTable;
use crate::error::{Error, Reason};
use crate::input::Input;
use crate::wire::wire;

wire! {
    /// What every table starts with (ACPI 6.5, table 5.4).
    pub struct TableHeader: 36 {
        /// Which table it is, in ASCII.
        pub signature: [u8; 4],
        /// Bytes in the table, the header included.
        pub length: U32,
        /// Revision of this table's form.
        pub revision: u8,
        /// Makes all bytes add up to 0.
        pub checksum: u8,
        /// Who supplied it.
        pub oem_id: [u8; 6],
        /// The supplier's name for it.
        pub oem_table_id: [u8; 8],
        /// The supplier's revision of it.
        pub oem_revision: U32,
        /// Who wrote the program that made it.
        pub creator_id: [u8; 4],
        /// That program's revision.
        pub creator_revision: U32,
    }
}

/// Who a table is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Who supplied it.
    pub oem_id: [u8; 6],
    /// The supplier's name for it.
    pub oem_table_id: [u8; 8],
    /// The supplier's revision of it.
    pub oem_revision: u32,
}

/// A table, seen where it lies.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Table<'a> {
    /// Hardware error sources.
    Hest(Hest<'a>),
    /// Errors of the boot before.
    Bert(Bert<'a>),
    /// How to keep error records.
    Erst(InstructionTable<'a>),
    /// How to inject errors.
    Einj(InstructionTable<'a>),
}

impl<'a> Table<'a> {
    /// Whether bytes start as one of these tables does.
    pub fn is_one(bytes: &[u8]) -> bool {
        [b"HEST", b"BERT", b"ERST", b"EINJ"]
            .iter()
            .any(|signature| bytes.starts_with(*signature))
    }

    /// Sees the table at the start of `bytes`; more may follow it.
    ///
    /// # Errors
    ///
    /// Where it is none of these tables, leads out of `bytes`, or its bytes do not add up to 0.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let (header, body) = read_table(bytes)?;
        match &header.signature {
            b"HEST" => Hest::read(header, body).map(Self::Hest),
            b"BERT" => Bert::read(header, body).map(Self::Bert),
            b"ERST" => InstructionTable::read_erst(header, body).map(Self::Erst),
            b"EINJ" => InstructionTable::read_einj(header, body).map(Self::Einj),
            _ => {
                let reason = Reason::Signature {
                    what: "a table of platform errors",
                    expected: "HEST, BERT, ERST or EINJ",
                };
                Err(Error { offset: 0, reason })
            }
        }
    }

    /// What it starts with.
    pub fn header(&self) -> &'a TableHeader {
        match self {
            Self::Hest(table) => table.header,
            Self::Bert(table) => table.header,
            Self::Erst(table) | Self::Einj(table) => table.header,
        }
    }
}

/// The header of the table at the start of `bytes`, and what follows it in the table.
fn read_table(bytes: &[u8]) -> Result<(&TableHeader, Input<'_>), Error> {
    let mut input = Input::new(bytes, 0);
    let header: &TableHeader = input.take("an ACPI table header")?;
    let length = header.length.get();
    let wrong = |problem| Error::field(4, "the table's length", length.into(), problem);
    let table = bytes
        .get(..length as usize)
        .ok_or_else(|| wrong("is more than there is"))?;
    let body = table
        .get(size_of::<TableHeader>()..)
        .ok_or_else(|| wrong("is less than a header"))?;
    let sum = sum(table);
    if sum != 0 {
        let reason = Reason::Checksum { sum };
        return Err(Error { offset: 9, reason });
    }
    Ok((header, Input::new(body, size_of::<TableHeader>())))
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// A table of these parts, with length and checksum.
///
/// # Panics
///
/// Where it has 4 GiB or more.
pub(super) fn build(signature: [u8; 4], revision: u8, origin: &Origin, body: &[u8]) -> Vec<u8> {
    let length = size_of::<TableHeader>() + body.len();
    let header = TableHeader {
        signature,
        length: u32::try_from(length)
            .expect("a table is far below 4 GiB")
            .into(),
        revision,
        checksum: 0,
        oem_id: origin.oem_id,
        oem_table_id: origin.oem_table_id,
        oem_revision: origin.oem_revision.into(),
        creator_id: *b"PGMD",
        creator_revision: 1.into(),
    };
    let mut bytes = [header.as_bytes(), body].concat();
    let checksum = sum(&bytes).wrapping_neg();
    if let Ok((header, _)) = TableHeader::mut_from_prefix(&mut bytes) {
        header.checksum = checksum;
    }
    bytes
}
