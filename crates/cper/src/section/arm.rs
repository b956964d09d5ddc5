//! Errors that an ARM processor reported (UEFI 2.10, N.2.4.4).

use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32, U64};

use crate::bits::{BitField, Values, flag, named};
use crate::error::Error;
use crate::input::Input;
use crate::wire::{when_valid, wire};

wire! {
    /// What the section starts with (UEFI 2.10, table N.17).
    pub struct ArmHeader: 40 {
        /// Bit 0: MPIDR, bit 1: affinity level, bit 2: running state, bit 3: there is vendor
        /// information.
        pub validation: U32,
        /// Error information structures that follow.
        pub info_count: U16,
        /// Context information structures that follow these.
        pub context_count: U16,
        /// Bytes in the section, these included; more than its contents where vendor information
        /// follows.
        pub section_length: U32,
        /// The affinity level at which the error came about: 0 to 3 are the vendor's to define.
        pub affinity_level: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// Which processor, by its MPIDR_EL1.
        pub mpidr: U64,
        /// What processor, by its MIDR_EL1.
        pub midr: U64,
        /// Bit 0: running. Bit 31 clear: the next field is valid.
        pub running_state: U32,
        /// PSCI state of the processor.
        pub psci_state: U32,
    }
}

wire! {
    /// One error (UEFI 2.10, table N.18).
    pub struct ArmErrorInfo: 32 {
        /// 0.
        pub version: u8,
        /// Bytes in this structure: 32.
        pub length: u8,
        /// Bit 0: multiple error, bit 1: flags, bit 2: error information, bits 3 and 4: virtual and
        /// physical address.
        pub validation: U16,
        /// What kind: see [`ErrorKind`].
        pub error_type: u8,
        /// 0: one error, 1: several, more: how many.
        pub multiple_error: U16,
        /// Bits, from 0: first error captured, last error captured, propagated, overflow.
        pub flags: u8,
        /// Fields by kind: see [`ErrorKind::fields`].
        pub error_information: U64,
        /// Virtual address that was accessed.
        pub virtual_address: U64,
        /// Physical address that was accessed, in bytes.
        pub physical_address: U64,
    }
}

wire! {
    /// What a context information structure starts with; registers follow (UEFI 2.10, table N.24).
    pub struct ArmContextHeader: 8 {
        /// 0.
        pub version: U16,
        /// Which registers: see [`arm_layout`](crate::section::registers::arm_layout).
        pub context_type: U16,
        /// Bytes of registers.
        pub size: U32,
    }
}

/// Names of the bits of [`ArmErrorInfo::flags`], from bit 0.
pub const INFO_FLAGS: [&str; 4] = [
    "firstErrorCaptured",
    "lastErrorCaptured",
    "propagated",
    "overflow",
];

/// What part of the processor failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A cache.
    Cache,
    /// A TLB.
    Tlb,
    /// The bus.
    Bus,
    /// Something of the processor's own design.
    MicroArchitectural,
}

impl ErrorKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Cache, Self::Tlb, Self::Bus, Self::MicroArchitectural];

    /// What the type of an error says by UEFI up to 2.9, where it is a number.
    pub fn by_number(error_type: u8) -> Option<Self> {
        Self::ALL.get(usize::from(error_type)).copied()
    }

    /// What the type of an error says by UEFI 2.10, where each kind has a bit, from bit 1 on. Type 2
    /// is a bus error by number and a cache error by bit; nothing in the record says which is meant.
    pub fn by_bits(error_type: u8) -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .zip(1..)
            .filter(move |(_, bit)| error_type >> bit & 1 != 0)
            .map(|(kind, _)| kind)
    }

    /// The name of the kind.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cache => "Cache Error",
            Self::Tlb => "TLB Error",
            Self::Bus => "Bus Error",
            Self::MicroArchitectural => "Micro-Architectural Error",
        }
    }

    /// The fields of the error information of this kind (UEFI 2.10, tables N.20 to N.22).
    pub const fn fields(self) -> &'static [BitField] {
        match self {
            Self::Cache => CACHE,
            Self::Tlb => TLB,
            Self::Bus => BUS,
            Self::MicroArchitectural => &[],
        }
    }
}

const RESERVED: &str = "Unknown (Reserved)";
const TRANSACTIONS: Values = Values::Named(&["Instruction", "Data Access", "Generic"], RESERVED);
const CACHE_OPERATIONS: Values = Values::Named(
    &[
        "Generic Error",
        "Generic Read",
        "Generic Write",
        "Data Read",
        "Data Write",
        "Instruction Fetch",
        "Prefetch",
        "Eviction",
        "Snooping",
        "Snooped",
        "Management",
    ],
    RESERVED,
);
const TLB_OPERATIONS: Values = Values::Named(
    &[
        "Generic Error",
        "Generic Read",
        "Generic Write",
        "Data Read",
        "Data Write",
        "Instruction Fetch",
        "Prefetch",
        "Local Management Operation",
        "External Management Operation",
    ],
    RESERVED,
);
const BUS_OPERATIONS: Values = Values::Named(
    &[
        "Generic Error",
        "Generic Read",
        "Generic Write",
        "Data Read",
        "Data Write",
        "Instruction Fetch",
        "Prefetch",
    ],
    RESERVED,
);
const PARTICIPATIONS: Values = Values::Named(
    &[
        "Local Processor Originated Request",
        "Local Processor Responded to Request",
        "Local Processor Observed",
        "Generic",
    ],
    "Unknown",
);
const ADDRESS_SPACES: Values = Values::Named(
    &[
        "External Memory Access",
        "Internal Memory Access",
        "",
        "Device Memory Access",
    ],
    "Unknown",
);
const ACCESS_MODES: Values = Values::Named(&["Secure", "Normal"], RESERVED);

const fn common(operations: Values) -> [BitField; 7] {
    [
        named("transactionType", 0, 16, 2, TRANSACTIONS),
        named("operation", 1, 18, 4, operations),
        named("level", 2, 22, 3, Values::Number),
        flag("processorContextCorrupt", 3, 25),
        flag("corrected", 4, 26),
        flag("precisePC", 5, 27),
        flag("restartablePC", 6, 28),
    ]
}

const CACHE: &[BitField] = &common(CACHE_OPERATIONS);
const TLB: &[BitField] = &common(TLB_OPERATIONS);
const BUS: &[BitField] = &{
    let [a, b, c, d, e, f, g] = common(BUS_OPERATIONS);
    [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        named("participationType", 7, 29, 2, PARTICIPATIONS),
        flag("timedOut", 8, 31),
        named("addressSpace", 9, 32, 2, ADDRESS_SPACES),
        named("memoryAttributes", 10, 34, 9, Values::Number),
        named("accessMode", 11, 43, 1, ACCESS_MODES),
    ]
};

impl ArmHeader {
    when_valid! {
        /// Which processor, by its MPIDR_EL1.
        mpidr: u64 = 0 => |this| this.mpidr.get();
        /// The affinity level at which the error came about.
        affinity_level: u8 = 1 => |this| this.affinity_level;
        /// Whether the processor runs.
        is_running: bool = 2 => |this| this.running_state.get() & 1 != 0;
    }

    /// PSCI state of the processor; `None` where bit 31 of the running state says that there is none.
    pub fn psci_state(&self) -> Option<u32> {
        (self.running_state.get() >> 31 == 0).then(|| self.psci_state.get())
    }
}

impl ArmErrorInfo {
    when_valid! {
        /// 0: one error, 1: several, more: how many.
        multiple_error: u16 = 0 => |this| this.multiple_error.get();
        /// Which of several errors this is.
        flags: u8 = 1 => |this| this.flags;
        /// Fields by kind: see [`ErrorKind::fields`].
        error_information: u64 = 2 => |this| this.error_information.get();
        /// Virtual address that was accessed.
        virtual_address: u64 = 3 => |this| this.virtual_address.get();
        /// Physical address that was accessed, in bytes.
        physical_address: u64 = 4 => |this| this.physical_address.get();
    }
}

/// An ARM processor error section, seen where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArmError<'a> {
    /// What it starts with.
    pub header: &'a ArmHeader,
    /// The errors.
    pub infos: &'a [ArmErrorInfo],
    contexts: &'a [u8],
    /// What follows up to the section's end: the vendor's.
    pub vendor: &'a [u8],
}

/// Registers of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArmContext<'a> {
    /// Which they are.
    pub header: &'a ArmContextHeader,
    /// Their bytes.
    pub registers: &'a [u8],
}

impl<'a> ArmError<'a> {
    pub(crate) fn read(mut input: Input<'a>) -> Result<Self, Error> {
        let start = input;
        let header: &ArmHeader = input.take("an ARM processor error section")?;
        let stated = header.section_length.get() as usize;
        if stated > start.bytes.len() {
            let problem = "is more than the section's descriptor gives it";
            let value = header.section_length.get().into();
            let at = start.offset + 8;
            return Err(Error::field(at, "the section's own length", value, problem));
        }
        let count = header.info_count.get().into();
        let infos = input.take_many(count, "ARM error information structures")?;
        let before = input;
        for _ in 0..header.context_count.get() {
            read_context(&mut input)?;
        }
        let (contexts, _) = before.bytes.split_at(input.offset - before.offset);
        let taken = input.offset - start.offset;
        let rest = stated.checked_sub(taken).ok_or_else(|| {
            let problem = "is less than its contents take";
            let value = header.section_length.get().into();
            Error::field(start.offset + 8, "the section's own length", value, problem)
        })?;
        let vendor = input.take_bytes(rest, "vendor information")?;
        Ok(Self {
            header,
            infos,
            contexts,
            vendor,
        })
    }

    /// The registers, one structure after another.
    pub fn contexts(&self) -> impl Iterator<Item = ArmContext<'a>> + use<'a> {
        let mut rest = self.contexts;
        core::iter::from_fn(move || {
            let (header, after) = ArmContextHeader::ref_from_prefix(rest).ok()?;
            // Reading has seen to it that the registers are there.
            let (registers, after) = after.split_at_checked(header.size.get() as usize)?;
            rest = after;
            Some(ArmContext { header, registers })
        })
    }
}

fn read_context(input: &mut Input<'_>) -> Result<(), Error> {
    let header: &ArmContextHeader = input.take("an ARM context information structure")?;
    input.take_bytes(header.size.get() as usize, "ARM registers")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    #[test]
    fn a_type_is_a_number_or_bits_by_the_specifications_age() {
        assert_eq!(ErrorKind::by_number(2), Some(ErrorKind::Bus));
        assert_eq!(ErrorKind::by_number(4), None);
        let kinds: Vec<_> = ErrorKind::by_bits(0b1_0010).collect();
        assert_eq!(kinds, [ErrorKind::Cache, ErrorKind::MicroArchitectural]);
        assert_eq!(ErrorKind::by_bits(1).next(), None);
    }
}
