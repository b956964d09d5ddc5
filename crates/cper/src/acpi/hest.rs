//! The hardware error source table: how the operating system learns of errors (ACPI 6.5, 18.3.2).

use alloc::vec::Vec;

use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

use super::gas::GenericAddress;
use super::table::{Origin, TableHeader, build};
use crate::error::Error;
use crate::input::Input;
use crate::wire::wire;

wire! {
    /// How a source says that there is an error (ACPI 6.5, table 18.12).
    pub struct Notification: 28 {
        /// One of the kinds in [`NotificationKind`].
        pub kind: u8,
        /// Bytes in this structure: 28.
        pub length: u8,
        /// Which of the numbers below the operating system may change: bits 0 to 5.
        pub write_enable: U16,
        /// Milliseconds between two looks at the source.
        pub poll_interval: U32,
        /// The interrupt, where the kind has one.
        pub vector: U32,
        /// Interrupts in one window from which on the source is polled instead.
        pub polling_threshold: U32,
        /// Milliseconds in that window.
        pub polling_window: U32,
        /// Errors in one window from which on they are handled.
        pub error_threshold: U32,
        /// Milliseconds in that window.
        pub error_window: U32,
    }
}

/// How a source says that there is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum NotificationKind {
    /// 0: not at all; the operating system looks every so often.
    Polled,
    /// 1: an interrupt.
    ExternalInterrupt,
    /// 2: a local interrupt.
    LocalInterrupt,
    /// 3: the system control interrupt.
    Sci,
    /// 4: a non-maskable interrupt.
    Nmi,
    /// 5: a corrected machine check interrupt.
    Cmci,
    /// 6: a machine check exception.
    Mce,
    /// 7: a signal on a GPIO line, which the device PNP0C33 passes on.
    Gpio,
    /// 8: an arm64 synchronous external abort.
    Sea,
    /// 9: an arm64 SError interrupt.
    Sei,
    /// 10: an interrupt by its global system number.
    Gsiv,
    /// 11: a software-delegated exception.
    Sdei,
}

impl NotificationKind {
    const ALL: [(Self, &'static str); 12] = [
        (Self::Polled, "polled"),
        (Self::ExternalInterrupt, "external interrupt"),
        (Self::LocalInterrupt, "local interrupt"),
        (Self::Sci, "SCI"),
        (Self::Nmi, "NMI"),
        (Self::Cmci, "CMCI"),
        (Self::Mce, "MCE"),
        (Self::Gpio, "GPIO signal"),
        (Self::Sea, "SEA"),
        (Self::Sei, "SEI"),
        (Self::Gsiv, "interrupt (GSIV)"),
        (Self::Sdei, "SDEI"),
    ];

    /// The kind of that number; `None` where it is not known.
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).map(|(kind, _)| *kind)
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

impl Notification {
    /// A notification of that kind without thresholds. `poll_interval` is in milliseconds, and matters
    /// where the kind is polled.
    pub fn new(kind: NotificationKind, poll_interval: u32) -> Self {
        Self {
            kind: kind.number(),
            length: 28,
            poll_interval: poll_interval.into(),
            ..Self::default()
        }
    }

    /// What kind it is; `None` where its number is not known.
    pub fn kind(&self) -> Option<NotificationKind> {
        NotificationKind::of(self.kind)
    }
}

wire! {
    /// A generic hardware error source, GHES (ACPI 6.5, table 18.10).
    pub struct GenericSource: 64 {
        /// 9, or 10 for the second version.
        pub kind: U16,
        /// A number that no other source has.
        pub source_id: U16,
        /// The source that this one stands in for; 0xffff where there is none.
        pub related_source_id: U16,
        /// Zero.
        pub flags: u8,
        /// 1: in use.
        pub enabled: u8,
        /// Records to keep memory for, at least 1.
        pub records: U32,
        /// Most data entries in a status block, at least 1.
        pub sections: U32,
        /// Most bytes of raw data in a status block.
        pub raw_data_length: U32,
        /// Where the physical address of the status block is kept.
        pub status_address: GenericAddress,
        /// How it says that there is an error.
        pub notification: Notification,
        /// Bytes that the status block can have.
        pub status_length: U32,
    }
}

wire! {
    /// A generic hardware error source that wants to be told when an error was read (ACPI 6.5,
    /// table 18.11).
    pub struct GenericSource2: 92 {
        /// What both versions have.
        pub base: GenericSource,
        /// The register by which it is told.
        pub read_ack: GenericAddress,
        /// The bits of it that stay as they are.
        pub read_ack_preserve: U64,
        /// The bits of it that are set.
        pub read_ack_write: U64,
    }
}

const GENERIC: u16 = 9;
const GENERIC_2: u16 = 10;
/// Bytes of an IA-32 machine check bank in the sources that have them (ACPI 6.5, table 18.5).
const BANK: usize = 28;

impl GenericSource {
    /// An enabled source whose status block of `status_length` bytes is found through the 64 bits of
    /// memory at `status_address`.
    pub fn new(
        source_id: u16,
        status_address: u64,
        status_length: u32,
        notification: Notification,
    ) -> Self {
        Self {
            kind: GENERIC.into(),
            source_id: source_id.into(),
            related_source_id: 0xffff.into(),
            flags: 0,
            enabled: 1,
            records: 1.into(),
            sections: 1.into(),
            raw_data_length: status_length.into(),
            status_address: GenericAddress::memory(status_address),
            notification,
            status_length: status_length.into(),
        }
    }
}

impl GenericSource2 {
    /// The same with an acknowledgement: the operating system sets bit 0 of the 64 bits of memory at
    /// `read_ack` when it has read an error, and leaves the others.
    pub fn new(base: GenericSource, read_ack: u64) -> Self {
        let base = GenericSource {
            kind: GENERIC_2.into(),
            ..base
        };
        Self {
            base,
            read_ack: GenericAddress::memory(read_ack),
            read_ack_preserve: (!1).into(),
            read_ack_write: 1.into(),
        }
    }
}

/// A source of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source<'a> {
    /// GHES.
    Generic(&'a GenericSource),
    /// GHESv2.
    Generic2(&'a GenericSource2),
    /// Another kind: machine check banks, NMI, PCI Express.
    Other {
        /// Its number.
        kind: u16,
        /// All of it.
        bytes: &'a [u8],
    },
}

impl Source<'_> {
    /// What kind of source it is.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Generic(_) => "generic (GHES)",
            Self::Generic2(_) => "generic with acknowledgement (GHESv2)",
            Self::Other { kind, .. } => match kind {
                0 => "IA-32 machine check exception",
                1 => "IA-32 corrected machine check",
                2 => "IA-32 NMI",
                6 => "PCI Express root port AER",
                7 => "PCI Express device AER",
                8 => "PCI Express/PCI-X bridge AER",
                11 => "IA-32 deferred machine check",
                _ => "unknown",
            },
        }
    }
}

/// The table, seen where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Hest<'a> {
    /// What it starts with.
    pub header: &'a TableHeader,
    count: u32,
    sources: Input<'a>,
}

impl<'a> Hest<'a> {
    pub(super) fn read(header: &'a TableHeader, mut body: Input<'a>) -> Result<Self, Error> {
        let count: &U32 = body.take("the number of error sources")?;
        Ok(Self {
            header,
            count: count.get(),
            sources: body,
        })
    }

    /// Sources that the table says it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Its sources, in order. The first that is damaged or unknown is the last that is given, because
    /// where the next would start is not known then; bytes behind the last are an error too.
    pub fn sources(&self) -> impl Iterator<Item = Result<Source<'a>, Error>> + use<'a> {
        let mut left = self.count;
        let mut input = self.sources;
        core::iter::from_fn(move || {
            let source = match left.checked_sub(1) {
                Some(fewer) => {
                    left = fewer;
                    read_source(&mut input)
                }
                None if input.bytes.is_empty() => return None,
                None => {
                    let length = input.bytes.len() as u64;
                    let problem = "should be 0: the table has more than the sources that it counts";
                    Err(Error::field(
                        input.offset,
                        "the number of bytes behind the last source",
                        length,
                        problem,
                    ))
                }
            };
            if source.is_err() {
                (left, input.bytes) = (0, &[]);
            }
            Some(source)
        })
    }
}

fn read_source<'a>(input: &mut Input<'a>) -> Result<Source<'a>, Error> {
    let mut ahead = *input;
    let kind: &U16 = ahead.take("an error source")?;
    let kind = kind.get();
    // The number of banks is the last byte but three before them.
    let with_banks = |size: usize, count_at: usize| {
        let banks = input.bytes.get(count_at).copied().unwrap_or(0);
        size + usize::from(banks) * BANK
    };
    let size = match kind {
        GENERIC => return input.take("a GHES").map(Source::Generic),
        GENERIC_2 => return input.take("a GHESv2").map(Source::Generic2),
        0 => with_banks(40, 32),
        1 | 11 => with_banks(48, 44),
        2 => 20,
        6 => 48,
        7 => 44,
        8 => 56,
        _ => {
            let problem = "is not known, nor where the next source would start";
            return Err(Error::field(
                input.offset,
                "the source's type",
                kind.into(),
                problem,
            ));
        }
    };
    let bytes = input.take_bytes(size, "an error source")?;
    Ok(Source::Other { kind, bytes })
}

/// A table being written.
#[derive(Debug, Clone, Default)]
pub struct HestBuilder {
    count: u32,
    sources: Vec<u8>,
}

impl HestBuilder {
    /// A table without sources.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source without acknowledgement.
    pub fn generic(&mut self, source: &GenericSource) -> &mut Self {
        self.push(source.as_bytes())
    }

    /// Adds a source with acknowledgement.
    pub fn generic2(&mut self, source: &GenericSource2) -> &mut Self {
        self.push(source.as_bytes())
    }

    /// The table's bytes.
    pub fn build(&self, origin: &Origin) -> Vec<u8> {
        let body = [&self.count.to_le_bytes()[..], &self.sources].concat();
        build(*b"HEST", 1, origin, &body)
    }

    fn push(&mut self, bytes: &[u8]) -> &mut Self {
        self.sources.extend_from_slice(bytes);
        self.count += 1;
        self
    }
}
