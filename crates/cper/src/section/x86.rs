//! Errors that an IA32 or x64 processor reported (UEFI 2.10, N.2.4.2).

use zerocopy::FromBytes;
use zerocopy::little_endian::{U16, U32, U64};

use crate::bits::{BitField, Values, flag, named};
use crate::error::Error;
use crate::guid::Guid;
use crate::input::Input;
use crate::wire::{when_valid, wire};

wire! {
    /// What the section starts with (UEFI 2.10, table N.10).
    pub struct X86Header: 64 {
        /// Bit 0: APIC id, bit 1: CPUID, bits 7:2: error information structures, bits 13:8: context
        /// information structures.
        pub validation: U64,
        /// The processor's APIC id.
        pub apic_id: U64,
        /// EAX, EBX, ECX and EDX of CPUID leaf 1, each in 64 bits; then zeroes.
        pub cpuid: [U64; 6],
    }
}

wire! {
    /// One error (UEFI 2.10, table N.11).
    pub struct X86ErrorInfo: 64 {
        /// What kind: see [`CheckKind`].
        pub error_type: Guid,
        /// Bit 0: check information, bits 1 to 3: target, requestor, responder, bit 4: instruction
        /// pointer.
        pub validation: U64,
        /// Fields by kind: see [`CheckKind::fields`].
        pub check_info: U64,
        /// The address that was accessed, in bytes.
        pub target_id: U64,
        /// Who asked.
        pub requestor_id: U64,
        /// Who answered.
        pub responder_id: U64,
        /// Where the processor was.
        pub instruction_pointer: U64,
    }
}

wire! {
    /// What a context information structure starts with; registers follow (UEFI 2.10, table N.16).
    pub struct X86ContextHeader: 16 {
        /// Which registers: see [`x86_layout`](crate::section::registers::x86_layout).
        pub context_type: U16,
        /// Bytes of registers.
        pub size: U16,
        /// The first MSR, where these are MSRs.
        pub msr_address: U32,
        /// Where they are, where these are memory-mapped registers.
        pub mm_address: U64,
    }
}

/// What part of the processor failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// A cache.
    Cache,
    /// A TLB.
    Tlb,
    /// The bus.
    Bus,
    /// Something of the processor's own design.
    MicroArchitecture,
}

impl CheckKind {
    /// Every kind with its GUID.
    pub const ALL: [(Self, Guid); 4] = [
        (
            Self::Cache,
            Guid::new(
                0xa557_01f5,
                0xe3ef,
                0x43de,
                [0xac, 0x72, 0x24, 0x9b, 0x57, 0x3f, 0xad, 0x2c],
            ),
        ),
        (
            Self::Tlb,
            Guid::new(
                0xfc06_b535,
                0x5e1f,
                0x4562,
                [0x9f, 0x25, 0x0a, 0x3b, 0x9a, 0xdb, 0x63, 0xc3],
            ),
        ),
        (
            Self::Bus,
            Guid::new(
                0x1cf3_f8b3,
                0xc5b1,
                0x49a2,
                [0xaa, 0x59, 0x5e, 0xef, 0x92, 0xff, 0xa6, 0x3c],
            ),
        ),
        (
            Self::MicroArchitecture,
            Guid::new(
                0x48ab_7f57,
                0xdc34,
                0x4f6c,
                [0xa7, 0xd3, 0xb0, 0xb5, 0xb0, 0xa7, 0x43, 0x14],
            ),
        ),
    ];

    /// The kind that this GUID names.
    pub fn of(error_type: Guid) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, guid)| *guid == error_type);
        found.map(|(kind, _)| *kind)
    }

    /// The name of the kind.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cache => "Cache Check Error",
            Self::Tlb => "TLB Check Error",
            Self::Bus => "Bus Check Error",
            Self::MicroArchitecture => "MS Check Error",
        }
    }

    /// The fields of the check information of this kind (UEFI 2.10, tables N.12 to N.15).
    pub const fn fields(self) -> &'static [BitField] {
        match self {
            Self::Cache | Self::Tlb => CACHE_OR_TLB,
            Self::Bus => BUS,
            Self::MicroArchitecture => MICRO_ARCHITECTURE,
        }
    }
}

const RESERVED: &str = "Unknown (Reserved)";
const TRANSACTIONS: Values = Values::Named(&["Instruction", "Data Access", "Generic"], RESERVED);
const OPERATIONS: Values = Values::Named(
    &[
        "Generic Error",
        "Generic Read",
        "Generic Write",
        "Data Read",
        "Data Write",
        "Instruction Fetch",
        "Prefetch",
        "Eviction",
        "Snoop",
    ],
    RESERVED,
);
const PARTICIPATIONS: Values = Values::Named(
    &[
        "Local processor originated request",
        "Local processor responded to request",
        "Local processor observed",
        "Generic",
    ],
    "Unknown",
);
const ADDRESS_SPACES: Values = Values::Named(
    &["Memory Access", "Reserved", "I/O", "Other Transaction"],
    "Unknown",
);
const MS_ERRORS: Values = Values::Named(
    &[
        "No Error",
        "Unclassified",
        "Microcode ROM Parity Error",
        "External Error",
        "FRC Error",
        "Internal Unclassified",
    ],
    "Unknown (Processor Specific)",
);

const COMMON: [BitField; 8] = [
    named("transactionType", 0, 16, 2, TRANSACTIONS),
    named("operation", 1, 18, 4, OPERATIONS),
    named("level", 2, 22, 3, Values::Number),
    flag("processorContextCorrupt", 3, 25),
    flag("uncorrected", 4, 26),
    flag("preciseIP", 5, 27),
    flag("restartableIP", 6, 28),
    flag("overflow", 7, 29),
];
const CACHE_OR_TLB: &[BitField] = &COMMON;
const BUS: &[BitField] = &{
    let [a, b, c, d, e, f, g, h] = COMMON;
    [
        a,
        b,
        c,
        d,
        e,
        f,
        g,
        h,
        named("participationType", 8, 30, 2, PARTICIPATIONS),
        flag("timedOut", 9, 32),
        named("addressSpace", 10, 33, 2, ADDRESS_SPACES),
    ]
};
const MICRO_ARCHITECTURE: &[BitField] = &[
    named("errorType", 0, 16, 3, MS_ERRORS),
    flag("processorContextCorrupt", 1, 19),
    flag("uncorrected", 2, 20),
    flag("preciseIP", 3, 21),
    flag("restartableIP", 4, 22),
    flag("overflow", 5, 23),
];

impl X86Header {
    when_valid! {
        /// The processor's APIC id.
        apic_id: u64 = 0 => |this| this.apic_id.get();
        /// EAX, EBX, ECX and EDX of CPUID leaf 1.
        cpuid: [u64; 4] = 1 => |this| [0, 1, 2, 3].map(|place| this.cpuid[place].get());
    }

    /// Error information structures that follow.
    pub fn info_count(&self) -> usize {
        (self.validation.get() >> 2 & 0x3f) as usize
    }

    /// Context information structures that follow these.
    pub fn context_count(&self) -> usize {
        (self.validation.get() >> 8 & 0x3f) as usize
    }
}

impl X86ErrorInfo {
    when_valid! {
        /// Fields by kind: see [`CheckKind::fields`].
        check_info: u64 = 0 => |this| this.check_info.get();
        /// The address that was accessed.
        target_id: u64 = 1 => |this| this.target_id.get();
        /// Who asked.
        requestor_id: u64 = 2 => |this| this.requestor_id.get();
        /// Who answered.
        responder_id: u64 = 3 => |this| this.responder_id.get();
        /// Where the processor was.
        instruction_pointer: u64 = 4 => |this| this.instruction_pointer.get();
    }

    /// What kind of error it is; `None` where its GUID is not known.
    pub fn kind(&self) -> Option<CheckKind> {
        CheckKind::of(self.error_type)
    }
}

/// An IA32/X64 processor error section, seen where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct X86Error<'a> {
    /// What it starts with.
    pub header: &'a X86Header,
    /// The errors.
    pub infos: &'a [X86ErrorInfo],
    contexts: &'a [u8],
}

/// Registers of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct X86Context<'a> {
    /// Which they are.
    pub header: &'a X86ContextHeader,
    /// Their bytes.
    pub registers: &'a [u8],
}

impl<'a> X86Error<'a> {
    pub(crate) fn read(mut input: Input<'a>) -> Result<Self, Error> {
        let header: &X86Header = input.take("an IA32/X64 processor error section")?;
        let count = header.info_count();
        let infos = input.take_many(count, "IA32/X64 error information structures")?;
        let before = input;
        for _ in 0..header.context_count() {
            let header: &X86ContextHeader = input.take("an IA32/X64 context structure")?;
            input.take_bytes(header.size.get().into(), "IA32/X64 registers")?;
        }
        let (contexts, _) = before.bytes.split_at(input.offset - before.offset);
        Ok(Self {
            header,
            infos,
            contexts,
        })
    }

    /// The registers, one structure after another.
    pub fn contexts(&self) -> impl Iterator<Item = X86Context<'a>> + use<'a> {
        let mut rest = self.contexts;
        core::iter::from_fn(move || {
            let (header, after) = X86ContextHeader::ref_from_prefix(rest).ok()?;
            // Reading has seen to it that the registers are there.
            let (registers, after) = after.split_at_checked(header.size.get().into())?;
            rest = after;
            Some(X86Context { header, registers })
        })
    }
}
