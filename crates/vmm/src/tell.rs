//! Telling the guest: how its vCPUs are set up to take machine checks, and what goes to them when
//! the mender has recorded a loss.

use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use pagemend::{Cause, Event, Gpa, GpaRange, Step};
use pagemend_guest::deliver::{self, Counts, MachineChecks, RETRY, Teller};
use pagemend_guest::kvm::cpuid::{self, CpuidFull};
use pagemend_guest::kvm::{self, SetupError, mce_cap_supported, mcg_cap, setup_vcpu};
use pagemend_guest::x86::{AoSignal, Vendor};

use crate::kick::Bell;

/// Frames of one loss that a guest is told of: of a 2 MiB page all, of a 1 GiB page what keeps it
/// busy for a moment; the others it learns of as it touches them.
const LIMIT: usize = 512;

/// Why the guest cannot be told of lost memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TellError {
    /// KVM has no machine checks.
    #[error("KVM does not say which machine checks it has")]
    NoMachineChecks(#[source] kvm_ioctls::Error),
    /// KVM does not show when the guest has dealt with one.
    #[error("KVM does not show the guest's use of its machine-check registers: Linux 5.10 does")]
    Watch(#[source] kvm_ioctls::Error),
    /// The processor is of no vendor whose guests recover.
    #[error("the host's processor is of no vendor whose guests recover: choose intel or amd")]
    Vendor,
    /// CPUID has no room.
    #[error(transparent)]
    Cpuid(#[from] CpuidFull),
    /// A vCPU does not take them.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

/// A guest's machine checks.
#[derive(Clone)]
pub(crate) struct Told {
    checks: Arc<MachineChecks>,
    supported: u64,
}

impl Told {
    /// For a guest that is shown `cpuid`.
    pub(crate) fn new(kvm: &Kvm, vm: &VmFd, shown: &CpuId, vcpus: u8) -> Result<Self, TellError> {
        let supported = mce_cap_supported(kvm).map_err(TellError::NoMachineChecks)?;
        let vendor = cpuid::vendor(shown).ok_or(TellError::Vendor)?;
        let banks = deliver::DEFAULT_BANKS;
        let config = deliver::Config {
            vendor,
            signal: AoSignal::best(vendor, mcg_cap(vendor, supported, banks)),
            banks,
            vcpus: vcpus.into(),
            limit: LIMIT,
        };
        kvm::watch(vm, &config).map_err(TellError::Watch)?;
        Ok(Self {
            checks: MachineChecks::new(config),
            supported,
        })
    }

    /// Whose rules the guest follows.
    pub(crate) fn vendor(&self) -> Vendor {
        self.checks.config().vendor
    }

    /// Makes `cpuid` that of a processor that recovers.
    pub(crate) fn show(&self, shown: &mut CpuId) -> Result<(), TellError> {
        Ok(cpuid::let_recover(shown, self.vendor())?)
    }

    /// Gives a vCPU, which has its CPUID, its banks. Returns its MCG_CAP.
    pub(crate) fn set_up(&self, vcpu: &VcpuFd, shown: &CpuId) -> Result<u64, TellError> {
        let banks = self.checks.config().banks;
        Ok(setup_vcpu(vcpu, shown, self.supported, banks)?)
    }

    /// What tells one vCPU.
    pub(crate) fn teller(&self, vcpu: u8) -> Teller {
        self.checks.teller(vcpu.into())
    }

    /// Takes a step of the mender: frames that it has recorded wait to be told from now on.
    pub(crate) fn hear(&self, event: &Event, cause: &mut Cause, bell: &Bell) {
        match &event.step {
            Step::Fault { cause: this, .. } => *cause = *this,
            Step::Record { lost, .. } => {
                let queued = self.checks.lost(lost.iter().copied());
                if queued.added == 0 {
                    return;
                }
                match *cause {
                    Cause::ActionOptional => bell.all(),
                    // Most likely a vCPU touched it, and is about to be told in a better way. If
                    // it was a device, the guest hears of it a little later.
                    Cause::ActionRequired => {
                        for vcpu in 0..self.checks.config().vcpus {
                            bell.after(vcpu, RETRY);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Frames that wait to be told.
    pub(crate) fn waiting(&self) -> Vec<Gpa> {
        self.checks.waiting()
    }

    /// What was told so far.
    pub(crate) fn counts(&self) -> Counts {
        self.checks.counts()
    }

    /// The guest starts again, and need not be told of what it lost before but for what is `lost`
    /// still.
    pub(crate) fn reset(&self, lost: &[GpaRange]) {
        self.checks.reset();
        self.checks.lost(lost.iter().copied());
    }
}
