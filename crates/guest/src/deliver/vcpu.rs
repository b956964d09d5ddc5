//! What delivery needs of a vCPU: its machine-check registers, and a way to set them off.

use std::fmt;

use serde::Serialize;

use crate::x86::MachineCheck;
use crate::x86::bits::*;

/// A vCPU that is outside the guest, on its own thread.
pub trait Vcpu {
    /// What can go wrong in getting at the registers.
    type Error;

    /// Registers that there is one of.
    fn state(&mut self) -> Result<State, Self::Error>;

    /// A bank's registers.
    fn bank(&mut self, bank: u8) -> Result<Bank, Self::Error>;

    /// Does what KVM_X86_SET_MCE does, with all its consequences: it is only called where nothing
    /// is in the way.
    fn inject(&mut self, record: &MachineCheck) -> Result<(), Self::Error>;
}

/// The machine-check registers of which a vCPU has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// CR4.
    pub cr4: u64,
    /// MCG_STATUS.
    pub mcg_status: u64,
    /// MCG_CTL; all ones where there is none.
    pub mcg_ctl: u64,
    /// MCG_EXT_CTL; 0 where there is none.
    pub mcg_ext_ctl: u64,
}

/// A bank's registers that decide whether it can take a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bank {
    /// MCi_CTL.
    pub ctl: u64,
    /// MCi_STATUS.
    pub status: u64,
}

/// Why a vCPU cannot be told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Obstacle {
    /// CR4.MCE is clear: the guest has not set up its handler, or has none. A machine check would
    /// shut it down.
    MachineChecksOff,
    /// MCG_STATUS.MCIP is set: the guest is in its handler. Another machine check would shut it
    /// down.
    InProgress,
    /// MCG_CTL or MCi_CTL are not all ones: KVM would drop the record without a word.
    ReportingOff,
    /// All banks for it hold records that the guest has not cleared.
    BanksFull,
    /// Other vCPUs have not come out of the last machine check, which all have to take.
    OthersInProgress,
    /// The vCPUs do not let a guest recover ([`Config::recovers`](super::Config::recovers)): a
    /// machine check would be its end, or one that it ignores and meets again for ever.
    NotRecoverable,
}

impl Obstacle {
    /// Whether the guest takes it out of the way by a write that a VMM can see
    /// ([`watched`](super::watched)).
    pub fn ends_with_exit(self) -> bool {
        matches!(
            self,
            Self::InProgress | Self::BanksFull | Self::OthersInProgress
        )
    }

    /// Whether it can end without an exit: then nothing but another look shows that it has.
    pub fn ends_unseen(self) -> bool {
        !self.ends_with_exit() && self != Self::NotRecoverable
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MachineChecksOff => "the guest has machine checks off (CR4.MCE is clear)",
            Self::InProgress => "the guest is handling a machine check (MCG_STATUS.MCIP is set)",
            Self::ReportingOff => "the guest has error reporting off (MCG_CTL, MCi_CTL)",
            Self::BanksFull => "the guest has not cleared earlier records from its banks",
            Self::OthersInProgress => "other vCPUs are still in the last machine check",
            Self::NotRecoverable => {
                "its processors do not let it recover (Intel's without MCG_SER_P, AMD's without SUCCOR)"
            }
        })
    }
}

impl State {
    /// Whether the guest takes machine checks.
    pub(super) fn enabled(&self) -> bool {
        self.cr4 & CR4_MCE != 0
    }

    /// Whether an Intel guest has opted in to local machine checks.
    pub(super) fn local(&self) -> bool {
        self.mcg_ext_ctl & MCG_EXT_CTL_LMCE_EN != 0
    }

    pub(super) fn in_progress(&self) -> bool {
        self.mcg_status & MCG_STATUS_MCIP != 0
    }

    /// What keeps an uncorrected error from being taken in `bank` (KVM
    /// `kvm_vcpu_ioctl_x86_set_mce`, `arch/x86/kvm/x86.c`).
    pub(super) fn obstacle(&self, bank: &Bank) -> Option<Obstacle> {
        if !self.enabled() {
            Some(Obstacle::MachineChecksOff)
        } else if self.in_progress() {
            Some(Obstacle::InProgress)
        } else if self.mcg_ctl != u64::MAX || bank.ctl != u64::MAX {
            Some(Obstacle::ReportingOff)
        } else {
            None
        }
    }
}

impl Bank {
    pub(super) fn is_occupied(&self) -> bool {
        self.status & MCI_STATUS_VAL != 0
    }
}
