//! What was offered to a guest and what it has taken: negotiated, for whoever asks about a machine.

use serde::Serialize;

use super::choice::{Notify, Way};
use crate::ghes::Condition;
use crate::x86::Vendor;
use crate::x86::bits::{MCG_CMCI_P, MCG_LMCE_P, MCG_SER_P};

/// What a guest can be told by, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// What is wanted.
    pub notify: Notify,
    /// How it would be told now of something that it has not touched.
    pub way: Way,
    /// What its processors offer.
    pub offered: Offered,
    /// Whether it takes machine checks (CR4.MCE), where somebody has looked since its last start.
    pub machine_checks: Option<bool>,
    /// Whether it asked for firmware's error records by `_OSC`, if it has asked for anything since
    /// its last start.
    pub osc_apei: Option<bool>,
    /// The sources of records that are in its tables.
    pub sources: Vec<SourceShown>,
}

/// What a guest's processors say that they do about memory errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offered {
    /// Whose rules they follow.
    pub vendor: Vendor,
    /// Intel's software error recovery (MCG_SER_P).
    pub ser: bool,
    /// Intel's local machine checks (MCG_LMCE_P).
    pub lmce: bool,
    /// Intel's interrupt for errors without exception (MCG_CMCI_P).
    pub cmci: bool,
    /// AMD's containment of uncorrected errors (SUCCOR), with overflow recovery.
    pub succor: bool,
}

impl Offered {
    /// Processors of `vendor` with this MCG_CAP, whose CPUID
    /// lets their guest recover (`kvm::cpuid::let_recover`).
    pub const fn new(vendor: Vendor, mcg_cap: u64) -> Self {
        Self {
            vendor,
            ser: mcg_cap & MCG_SER_P != 0,
            lmce: mcg_cap & MCG_LMCE_P != 0,
            cmci: mcg_cap & MCG_CMCI_P != 0,
            succor: matches!(vendor, Vendor::Amd),
        }
    }
}

/// A source of records, and what has become of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SourceShown {
    /// Its number in HEST.
    pub id: u16,
    /// Whether the guest has read it.
    pub condition: Condition,
}
