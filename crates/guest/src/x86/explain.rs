//! What a set of machine-check registers says, in words: for people and for tests.

use std::fmt;

use pagemend_core::address::Gpa;
use serde::Serialize;

use super::bits::*;
use super::fields::{self, AddressMode};
use super::machine_check::{MachineCheck, Vendor};

/// What software has to do about it (Linux `mce_severity`, `mce/severity.c`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The bank holds nothing.
    Invalid,
    /// A record that was not enabled: to be cleared and ignored.
    NotEnabled,
    /// Hardware has corrected it.
    Corrected,
    /// AMD: uncorrected, and nobody has used the data yet.
    Deferred,
    /// Intel: uncorrected, told by no exception; nobody has used the data yet.
    NoAction,
    /// Intel: uncorrected, told by an exception; nobody has used the data yet.
    ActionOptional,
    /// Somebody needs the data that is lost.
    ActionRequired,
    /// Uncorrected, and not told in a way from which software can recover.
    Uncorrected,
    /// The processor itself cannot go on.
    Fatal,
}

/// A record's meaning.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// What to do about it.
    pub severity: Severity,
    /// What kind of error it was, by its code.
    pub kind: &'static str,
    /// The parts of that code, in words, if it has such.
    pub detail: Option<String>,
    /// The code that is the processor model's own.
    pub model_code: u16,
    /// How many corrected errors it stands for, where it counts them.
    pub corrected: Option<u16>,
    /// Where, if it says.
    pub gpa: Option<Gpa>,
    /// Base-two logarithm of the bytes concerned, if it says.
    pub lsb: Option<u8>,
    /// Whether another error was lost because the bank was occupied.
    pub overflow: bool,
    /// Names of the bits that are set: MCi_STATUS first, highest first, then MCG_STATUS.
    pub bits: Vec<&'static str>,
}

/// Says what `record` means to software on a processor of `vendor` that lets it recover
/// ([`MCG_SER_P`], SUCCOR).
pub fn explain(vendor: Vendor, record: &MachineCheck) -> Explanation {
    let has = |bits| record.status & bits == bits;
    let code = record.status & MCACOD;
    let located = AddressMode::of(vendor, record) == Some(AddressMode::Physical);
    let status = STATUS_NAMES.iter().chain(match vendor {
        Vendor::Intel => INTEL_STATUS_NAMES,
        Vendor::Amd => AMD_STATUS_NAMES,
    });
    let status = status.filter(|(bit, _)| has(*bit));
    let mcg_status = MCG_STATUS_NAMES
        .iter()
        .filter(|(bit, _)| record.mcg_status & bit != 0);
    Explanation {
        severity: severity(vendor, record),
        kind: fields::kind(code),
        detail: fields::detail(code),
        model_code: (record.status >> MCI_STATUS_MSCOD_SHIFT) as u16,
        corrected: fields::corrected(vendor, record),
        gpa: located.then_some(Gpa::new(record.addr)),
        lsb: (located && has(MCI_STATUS_MISCV))
            .then_some((record.misc & MCI_MISC_ADDR_LSB_MASK) as u8),
        overflow: has(MCI_STATUS_VAL | MCI_STATUS_OVER),
        bits: status.chain(mcg_status).map(|(_, name)| *name).collect(),
    }
}

/// In the order of Linux's own rules, first match wins.
fn severity(vendor: Vendor, record: &MachineCheck) -> Severity {
    let has = |bits| record.status & bits == bits;
    if !has(MCI_STATUS_VAL) {
        return Severity::Invalid;
    }
    if record.is_exception() && !has(MCI_STATUS_EN) {
        return Severity::NotEnabled;
    }
    if has(MCI_STATUS_PCC) {
        return Severity::Fatal;
    }
    match vendor {
        Vendor::Amd if has(MCI_STATUS_UC | MCI_STATUS_POISON) => Severity::ActionRequired,
        Vendor::Amd if has(MCI_STATUS_UC) => Severity::Uncorrected,
        Vendor::Amd if has(MCI_STATUS_DEFERRED) => Severity::Deferred,
        _ if !has(MCI_STATUS_UC) => Severity::Corrected,
        _ if has(MCI_STATUS_OVER | MCI_STATUS_AR) => Severity::Fatal,
        _ if has(MCI_STATUS_S | MCI_STATUS_AR) => Severity::ActionRequired,
        _ if has(MCI_STATUS_AR) => Severity::Fatal,
        _ if has(MCI_STATUS_S) => Severity::ActionOptional,
        _ => Severity::NoAction,
    }
}

type Names = &'static [(u64, &'static str)];

const STATUS_NAMES: Names = &[
    (MCI_STATUS_VAL, "VAL"),
    (MCI_STATUS_OVER, "OVER"),
    (MCI_STATUS_UC, "UC"),
    (MCI_STATUS_EN, "EN"),
    (MCI_STATUS_MISCV, "MISCV"),
    (MCI_STATUS_ADDRV, "ADDRV"),
    (MCI_STATUS_PCC, "PCC"),
];
const INTEL_STATUS_NAMES: Names = &[(MCI_STATUS_S, "S"), (MCI_STATUS_AR, "AR")];
const AMD_STATUS_NAMES: Names = &[
    (MCI_STATUS_TCC, "TCC"),
    (MCI_STATUS_DEFERRED, "DEFERRED"),
    (MCI_STATUS_POISON, "POISON"),
];
const MCG_STATUS_NAMES: Names = &[
    (MCG_STATUS_RIPV, "RIPV"),
    (MCG_STATUS_EIPV, "EIPV"),
    (MCG_STATUS_MCIP, "MCIP"),
    (MCG_STATUS_LMCES, "LMCES"),
];

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "no record",
            Self::NotEnabled => "not enabled, to be ignored",
            Self::Corrected => "corrected",
            Self::Deferred => "deferred",
            Self::NoAction => "uncorrected, no action required",
            Self::ActionOptional => "uncorrected, action optional",
            Self::ActionRequired => "uncorrected, action required",
            Self::Uncorrected => "uncorrected",
            Self::Fatal => "fatal",
        })
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.severity, self.kind)?;
        if let Some(gpa) = self.gpa {
            write!(f, ", at {gpa}")?;
        }
        if let Some(lsb) = self.lsb {
            write!(f, ", 2^{lsb} bytes")?;
        }
        if self.overflow {
            f.write_str(", another error was lost")?;
        }
        write!(f, " ({})", self.bits.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::x86::AoSignal;

    #[test]
    fn a_record_reads_as_a_sentence() {
        let gpa = Gpa::new(0x8000);
        let said = |vendor, record: MachineCheck| explain(vendor, &record).to_string();
        assert_eq!(
            said(
                Vendor::Intel,
                MachineCheck::action_required(Vendor::Intel, 9, gpa, true)
            ),
            "uncorrected, action required, data load, at 0x8000, 2^12 bytes \
             (VAL UC EN MISCV ADDRV S AR RIPV EIPV MCIP LMCES)"
        );
        assert_eq!(
            said(
                Vendor::Amd,
                MachineCheck::action_optional(Vendor::Amd, AoSignal::Record, 9, gpa, false)
            ),
            "deferred, no code, at 0x8000, 2^12 bytes (VAL EN MISCV ADDRV DEFERRED POISON)"
        );
        assert_eq!(
            said(Vendor::Intel, MachineCheck::bystander(9)),
            "not enabled, to be ignored, no code (VAL UC S RIPV MCIP)"
        );
    }

    #[test]
    fn an_overflow_is_fatal_to_intel_where_action_is_required() {
        let mut record = MachineCheck::action_required(Vendor::Intel, 9, Gpa::new(0), false);
        record.status |= MCI_STATUS_OVER;
        let explained = explain(Vendor::Intel, &record);
        assert_eq!(explained.severity, Severity::Fatal);
        assert!(explained.overflow);
    }

    proptest! {
        #[test]
        fn what_is_made_is_what_is_read(gpa in 0..1u64 << 52, intel: bool, signal in 0..4u8, local: bool) {
            let vendor = if intel { Vendor::Intel } else { Vendor::Amd };
            let gpa = Gpa::new(gpa);
            let (record, expected) = match signal {
                0 => (MachineCheck::action_required(vendor, 3, gpa, local), Severity::ActionRequired),
                _ if !intel => (
                    MachineCheck::action_optional(vendor, AoSignal::Record, 3, gpa, local),
                    Severity::Deferred,
                ),
                1 => (
                    MachineCheck::action_optional(vendor, AoSignal::Exception, 3, gpa, local),
                    Severity::ActionOptional,
                ),
                _ => (
                    MachineCheck::action_optional(vendor, AoSignal::Interrupt, 3, gpa, local),
                    Severity::NoAction,
                ),
            };
            let explained = explain(vendor, &record);
            prop_assert_eq!(explained.severity, expected);
            prop_assert_eq!(explained.gpa, Some(gpa.frame()));
            prop_assert_eq!(explained.lsb, Some(12));
        }

        #[test]
        fn any_bits_have_a_meaning(status: u64, addr: u64, misc: u64, mcg_status: u64, intel: bool) {
            let record = MachineCheck { bank: 0, status, addr, misc, mcg_status };
            let vendor = if intel { Vendor::Intel } else { Vendor::Amd };
            let explained = explain(vendor, &record);
            prop_assert_eq!(explained.severity == Severity::Invalid, status >> 63 == 0);
            prop_assert!(explained.severity == Severity::Invalid || explained.bits.contains(&"VAL"));
            prop_assert!(!explained.to_string().is_empty());
        }
    }
}
