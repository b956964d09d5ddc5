//! Telling the guest: how its vCPUs are set up to take machine checks, and what goes to them when
//! the mender has recorded a loss.

use std::sync::Arc;

use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use pagemend::{Cause, Event, FRAME_SIZE, Gpa, GpaRange, Step};
use pagemend_guest::deliver::{self, Counts, MachineChecks, RETRY, Teller};
use pagemend_guest::kvm::cpuid::{self, CpuidFull};
use pagemend_guest::kvm::{self, SetupError, mce_cap_supported, mcg_cap, setup_vcpu};
use pagemend_guest::x86::{AoSignal, Vendor};

use crate::events::{FailureAction, Hub, Recipient, What};
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

    /// What listens to the mender: frames that it has recorded wait to be told from then on.
    pub(crate) fn listener(&self, hub: Hub, bell: Bell) -> impl FnMut(&Event) + Send + 'static {
        let checks = Arc::clone(&self.checks);
        let mut fault = Fault::default();
        move |event| {
            for report in fault.take(event, &checks, &bell) {
                hub.tell(report);
            }
            hub.tell(What::Mender {
                detail: event.clone(),
            });
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

/// The fault that the mender is at.
#[derive(Default)]
struct Fault {
    /// Where it was touched, if it was.
    touched: Option<Gpa>,
    told: bool,
}

impl Fault {
    /// Takes a step of the mender, and gives what is to be reported of it.
    fn take(&mut self, event: &Event, checks: &MachineChecks, bell: &Bell) -> Vec<What> {
        match &event.step {
            Step::Fault { gpa, cause, .. } => {
                *self = Self {
                    touched: (*cause == Cause::ActionRequired).then(|| gpa.frame()),
                    told: false,
                };
                vec![]
            }
            Step::Record { lost, .. } => {
                self.told = true;
                if checks.lost(lost.iter().copied()).added > 0 {
                    self.call(checks, bell);
                }
                // A vCPU that has touched a frame reports that itself, when it is told.
                let alone = |range: &&GpaRange| {
                    Some(range.start()) == self.touched && range.len() == FRAME_SIZE
                };
                lost.iter()
                    .filter(|range| !alone(range))
                    .map(|range| What::failure(Recipient::Guest, FailureAction::Inject, *range))
                    .collect()
            }
            // Nothing that the guest would have to know.
            Step::Done {
                action: Some(_), ..
            } if !self.told => vec![What::failure(
                Recipient::Hypervisor,
                FailureAction::Ignore,
                event.page,
            )],
            _ => vec![],
        }
    }

    fn call(&self, checks: &MachineChecks, bell: &Bell) {
        if self.touched.is_none() {
            return bell.all();
        }
        // Most likely a vCPU touched it, and is about to be told in a better way. If it was a
        // device, the guest hears of it a little later.
        for vcpu in 0..checks.config().vcpus {
            bell.after(vcpu, RETRY);
        }
    }
}
