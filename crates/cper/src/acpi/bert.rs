//! The boot error record table: where the firmware left the errors of the boot before (ACPI 6.5,
//! 18.3.1).

use alloc::vec::Vec;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::table::{Origin, TableHeader, build};
use crate::error::Error;
use crate::input::Input;
use crate::wire::wire;

wire! {
    /// What the table says.
    pub struct BootErrorRegion: 12 {
        /// Bytes in the region.
        pub length: U32,
        /// Its physical address. A generic error status block lies there, empty if nothing happened.
        pub address: U64,
    }
}

/// The table, seen where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Bert<'a> {
    /// What it starts with.
    pub header: &'a TableHeader,
    /// Where the errors are.
    pub region: &'a BootErrorRegion,
}

impl<'a> Bert<'a> {
    pub(super) fn read(header: &'a TableHeader, mut body: Input<'a>) -> Result<Self, Error> {
        let region = body.take("the boot error region")?;
        Ok(Self { header, region })
    }
}

/// The table for a region of `length` bytes at the physical `address`.
pub fn bert(origin: &Origin, address: u64, length: u32) -> Vec<u8> {
    let region = BootErrorRegion {
        length: length.into(),
        address: address.into(),
    };
    build(*b"BERT", 1, origin, region.as_bytes())
}
