//! What a record says beyond what software acts on: the parts of its error code, how often an error
//! was corrected, and what kind of address it gives.

use std::fmt;

use super::bits::*;
use super::machine_check::{MachineCheck, Vendor};

/// What MCi_ADDR is, by MCi_MISC (SDM "IA32_MCi_MISC MSRs").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressMode {
    /// An offset in a segment.
    SegmentOffset,
    /// A linear address.
    Linear,
    /// A physical address.
    Physical,
    /// An address of the memory controller's.
    Memory,
    /// Of no certain kind.
    Generic,
    /// A number without a meaning.
    Reserved(u8),
    /// The record does not say.
    Unsaid,
}

impl AddressMode {
    /// What the address of `record` is, if it has one. AMD's processors give no other than physical
    /// addresses here.
    pub fn of(vendor: Vendor, record: &MachineCheck) -> Option<Self> {
        let has = |bit| record.status & bit != 0;
        if !has(MCI_STATUS_VAL) || !has(MCI_STATUS_ADDRV) {
            return None;
        }
        Some(match vendor {
            Vendor::Amd => Self::Physical,
            Vendor::Intel if !has(MCI_STATUS_MISCV) => Self::Unsaid,
            Vendor::Intel => match record.misc >> MCI_MISC_ADDR_MODE_SHIFT & 7 {
                0 => Self::SegmentOffset,
                1 => Self::Linear,
                MCI_MISC_ADDR_PHYS => Self::Physical,
                3 => Self::Memory,
                7 => Self::Generic,
                other => Self::Reserved(other as u8),
            },
        })
    }
}

impl fmt::Display for AddressMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SegmentOffset => f.write_str("an offset in a segment"),
            Self::Linear => f.write_str("a linear address"),
            Self::Physical => f.write_str("a physical address"),
            Self::Memory => f.write_str("an address of the memory controller's own"),
            Self::Generic => f.write_str("an address of no certain kind"),
            Self::Reserved(mode) => write!(f, "an address of the reserved kind {mode}"),
            Self::Unsaid => f.write_str("an address of a kind that it does not say"),
        }
    }
}

/// The kind of error by its code, [`MCACOD`] (SDM "Interpreting the MCA Error Codes"; the forms are
/// those of `mce/severity.c`, and AMD's are among them).
pub(super) fn kind(code: u64) -> &'static str {
    match code {
        0 => "no code",
        code if MCACOD_SCRUB_CODES.contains(&code) => "found by memory scrubbing",
        MCACOD_L3WB => "cache write back",
        MCACOD_DATA => "data load",
        MCACOD_INSTR => "instruction fetch",
        code => form(code).map_or("other", |form| form.name),
    }
}

/// The parts of a code, in words, where it is of a form that has such.
pub(super) fn detail(code: u64) -> Option<String> {
    let form = form(code)?;
    let parts = form.parts.iter().map(|part| part(code));
    Some(parts.collect::<Vec<_>>().join(", "))
}

/// Errors that the record stands for: hardware that corrects them counts them
/// ([`MCI_STATUS_CEC_SHIFT`]). Intel's.
pub(super) fn corrected(vendor: Vendor, record: &MachineCheck) -> Option<u16> {
    let counts = vendor == Vendor::Intel
        && record.status & (MCI_STATUS_VAL | MCI_STATUS_UC) == MCI_STATUS_VAL;
    let count = (record.status >> MCI_STATUS_CEC_SHIFT & MCI_STATUS_CEC_MASK) as u16;
    (counts && count > 0).then_some(count)
}

/// A compound code: where its bits have these values it is of this form.
struct Form {
    mask: u64,
    value: u64,
    name: &'static str,
    parts: &'static [fn(u64) -> String],
}

/// SDM, table "IA32_MCi_Status [15:0] Compound Error Code Encoding". Bit 12 says that corrected
/// errors are filtered, and belongs to all of them.
const FORMS: [Form; 6] = [
    Form {
        mask: 0xeffc,
        value: 0x000c,
        name: "cache hierarchy",
        parts: &[level],
    },
    Form {
        mask: 0xeff0,
        value: 0x0010,
        name: "translation lookaside buffer",
        parts: &[transaction, level],
    },
    Form {
        mask: 0xef80,
        value: 0x0080,
        name: "memory controller",
        parts: &[memory_transaction, channel],
    },
    Form {
        mask: 0xef00,
        value: 0x0100,
        name: "cache hierarchy",
        parts: &[request, transaction, level],
    },
    Form {
        mask: 0xef80,
        value: 0x0280,
        name: "memory used as a cache",
        parts: &[memory_transaction, channel],
    },
    Form {
        mask: 0xe800,
        value: 0x0800,
        name: "bus or interconnect",
        parts: &[participation, timeout, request, place, level],
    },
];

fn form(code: u64) -> Option<&'static Form> {
    FORMS.iter().find(|form| code & form.mask == form.value)
}

fn level(code: u64) -> String {
    match code & 3 {
        3 => "any level".to_owned(),
        level => format!("level {level}"),
    }
}

fn transaction(code: u64) -> String {
    let names = ["instruction", "data", "generic", "reserved"];
    names[(code >> 2 & 3) as usize].to_owned()
}

fn request(code: u64) -> String {
    let names = [
        "error",
        "read",
        "write",
        "data read",
        "data write",
        "instruction fetch",
        "prefetch",
        "eviction",
        "snoop",
    ];
    let name = names.get((code >> 4 & 0xf) as usize);
    name.copied().unwrap_or("reserved request").to_owned()
}

fn memory_transaction(code: u64) -> String {
    let names = [
        "undefined request",
        "read",
        "write",
        "address or command",
        "scrubbing",
    ];
    let name = names.get((code >> 4 & 7) as usize);
    name.copied().unwrap_or("reserved request").to_owned()
}

fn channel(code: u64) -> String {
    match code & 0xf {
        0xf => "channel not said".to_owned(),
        channel => format!("channel {channel}"),
    }
}

fn participation(code: u64) -> String {
    let names = [
        "this processor asked",
        "this processor answered",
        "this processor observed",
        "any processor",
    ];
    names[(code >> 9 & 3) as usize].to_owned()
}

fn timeout(code: u64) -> String {
    let names = ["no time-out", "time-out"];
    names[(code >> 8 & 1) as usize].to_owned()
}

fn place(code: u64) -> String {
    let names = ["memory", "reserved", "I/O", "other"];
    names[(code >> 2 & 3) as usize].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Codes with what the SDM's and APM's tables make of them.
    #[test]
    fn codes_read_as_the_manuals_tables_do() {
        for (code, name, parts) in [
            (0x0134, "data load", Some("data read, data, level 0")),
            (
                0x0150,
                "instruction fetch",
                Some("instruction fetch, instruction, level 0"),
            ),
            (0x0091, "memory controller", Some("read, channel 1")),
            (0x1091, "memory controller", Some("read, channel 1")),
            (
                0x00cf,
                "found by memory scrubbing",
                Some("scrubbing, channel not said"),
            ),
            (
                0x0014,
                "translation lookaside buffer",
                Some("data, level 0"),
            ),
            (0x000e, "cache hierarchy", Some("level 2")),
            (0x0136, "cache hierarchy", Some("data read, data, level 2")),
            (
                0x0280,
                "memory used as a cache",
                Some("undefined request, channel 0"),
            ),
            (
                0x0e0b,
                "bus or interconnect",
                Some("any processor, no time-out, error, I/O, any level"),
            ),
            (0x0400, "other", None),
            (0, "no code", None),
        ] {
            assert_eq!(kind(code), name, "{code:#x}");
            assert_eq!(detail(code).as_deref(), parts, "{code:#x}");
        }
    }

    #[test]
    fn an_address_is_what_misc_says_on_intel_and_physical_on_amd() {
        let record = |status, misc| MachineCheck {
            bank: 0,
            status: MCI_STATUS_VAL | status,
            addr: 0,
            misc,
            mcg_status: 0,
        };
        let both = MCI_STATUS_ADDRV | MCI_STATUS_MISCV;
        let intel = |record: MachineCheck| AddressMode::of(Vendor::Intel, &record);
        assert_eq!(intel(record(both, 0x8c)), Some(AddressMode::Physical));
        assert_eq!(intel(record(both, 0x4c)), Some(AddressMode::Linear));
        assert_eq!(intel(record(both, 0x14c)), Some(AddressMode::Reserved(5)));
        let unsaid = record(MCI_STATUS_ADDRV, 0x8c);
        assert_eq!(intel(unsaid), Some(AddressMode::Unsaid));
        assert_eq!(
            AddressMode::of(Vendor::Amd, &unsaid),
            Some(AddressMode::Physical)
        );
        assert_eq!(intel(record(MCI_STATUS_MISCV, 0x8c)), None);
    }

    proptest! {
        #[test]
        fn every_code_has_words(code in 0u64..0x1_0000) {
            prop_assert!(!kind(code).is_empty());
            prop_assert!(detail(code).is_none_or(|words| !words.is_empty()));
        }

        #[test]
        fn no_other_bit_has_a_say_in_what_an_address_is(status: u64, misc: u64) {
            let mode = |vendor, status, misc| {
                let record = MachineCheck { bank: 0, status, addr: 0, misc, mcg_status: 0 };
                AddressMode::of(vendor, &record)
            };
            let has_address = MCI_STATUS_VAL | MCI_STATUS_ADDRV;
            for vendor in [Vendor::Intel, Vendor::Amd] {
                let said = mode(vendor, status, misc);
                prop_assert_eq!(said.is_some(), status & has_address == has_address);
                let status = status & (has_address | MCI_STATUS_MISCV);
                let misc = misc & 7 << MCI_MISC_ADDR_MODE_SHIFT;
                prop_assert_eq!(said, mode(vendor, status, misc));
            }
        }

        #[test]
        fn what_was_corrected_was_counted(count in 0u64..0x8000, uncorrected: bool) {
            let uc = if uncorrected { MCI_STATUS_UC } else { 0 };
            let record = MachineCheck {
                bank: 0,
                status: MCI_STATUS_VAL | uc | count << MCI_STATUS_CEC_SHIFT,
                addr: 0,
                misc: 0,
                mcg_status: 0,
            };
            let expected = (!uncorrected && count > 0).then_some(count as u16);
            prop_assert_eq!(corrected(Vendor::Intel, &record), expected);
            prop_assert_eq!(corrected(Vendor::Amd, &record), None);
        }
    }
}
