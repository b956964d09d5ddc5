//! Telling the guest: how its vCPUs are set up to take machine checks, where it finds records, and
//! what goes to it when the mender has recorded a loss.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::CpuId;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use pagemend::{Cause, Event, FRAME_SIZE, Gpa, GpaRange, GuardError, GuestRegion, Pagemend, Step};
use pagemend_guest::deliver::{self, MachineChecks, Queued, RETRY, Teller};
use pagemend_guest::ghes::{self, Patience, Place, Records, Source};
use pagemend_guest::kvm::cpuid::{self, CpuidFull};
use pagemend_guest::kvm::{self, SetupError, mce_cap_kept, mcg_cap, setup_vcpu};
use pagemend_guest::route::{Capability, Counts, Moved, Notify, Offered, Router, Way};
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

/// What a guest is told, by machine checks and by records.
#[derive(Clone)]
pub(crate) struct Told {
    router: Arc<Router<GuestRegion>>,
    supported: u64,
}

impl Told {
    /// For a guest that is shown `cpuid`.
    pub(crate) fn new(
        kvm: &Kvm,
        vm: &VmFd,
        shown: &CpuId,
        vcpus: u8,
        notify: Notify,
    ) -> Result<Self, TellError> {
        let supported = mce_cap_kept(kvm).map_err(TellError::NoMachineChecks)?;
        let vendor = cpuid::vendor(shown).ok_or(TellError::Vendor)?;
        let banks = deliver::DEFAULT_BANKS;
        let mcg_cap = mcg_cap(vendor, supported, banks);
        let config = deliver::Config {
            vendor,
            signal: AoSignal::best(vendor, mcg_cap),
            recovers: vendor.recovers(mcg_cap),
            banks,
            vcpus: vcpus.into(),
            limit: LIMIT,
        };
        kvm::watch(vm, &config).map_err(TellError::Watch)?;
        let (offered, checks) = (Offered::new(vendor, mcg_cap), MachineChecks::new(config));
        Ok(Self {
            router: Arc::new(Router::new(notify, offered, checks)),
            supported,
        })
    }

    fn checks(&self) -> &Arc<MachineChecks> {
        self.router.machine_checks()
    }

    /// Gives the guest a source of records at `place` in `memory`.
    pub(crate) fn offer_records(
        &self,
        memory: GuestRegion,
        place: Place,
    ) -> Result<(), GuardError> {
        let config = ghes::Config {
            patience: Patience::default(),
            limit: LIMIT,
        };
        let source = Source::new(memory, place);
        self.router.offer(Records::new(source, config))
    }

    /// Whose rules the guest follows.
    pub(crate) fn vendor(&self) -> Vendor {
        self.checks().config().vendor
    }

    /// Makes `cpuid` that of a processor that recovers.
    pub(crate) fn show(&self, shown: &mut CpuId) -> Result<(), TellError> {
        Ok(cpuid::let_recover(shown, self.vendor())?)
    }

    /// Gives a vCPU, which has its CPUID, its banks. Returns its MCG_CAP.
    pub(crate) fn set_up(&self, vcpu: &VcpuFd, shown: &CpuId) -> Result<u64, TellError> {
        let banks = self.checks().config().banks;
        Ok(setup_vcpu(vcpu, shown, self.supported, banks)?)
    }

    /// What tells one vCPU.
    pub(crate) fn teller(&self, vcpu: u8) -> Teller {
        self.checks().teller(vcpu.into())
    }

    /// What listens to the mender: frames that it has recorded wait to be told from then on.
    pub(crate) fn listener(&self, hub: Hub, bell: Bell) -> impl FnMut(&Event) + Send + 'static {
        let router = Arc::clone(&self.router);
        let mut fault = Fault::default();
        move |event| {
            for report in fault.take(event, &router, &bell) {
                hub.tell(report);
            }
            hub.tell(What::Mender {
                detail: event.clone(),
            });
        }
    }

    /// Frames that wait to be told.
    pub(crate) fn waiting(&self) -> Vec<Gpa> {
        self.router.waiting()
    }

    /// What was told so far.
    pub(crate) fn counts(&self) -> Counts {
        self.router.counts()
    }

    /// What the guest can be told by.
    pub(crate) fn capability(&self) -> Capability {
        self.router.capability()
    }

    /// What the guest has named to `_OSC`.
    pub(crate) fn osc(&self, support: u32) {
        self.router.osc(support);
    }

    /// A vCPU has touched the frame, and was told.
    pub(crate) fn touched(&self, gpa: Gpa) {
        self.router.told(gpa);
    }

    /// Sees what the guest has read and posts what comes next. The first vCPU does so on its way,
    /// and is called where nothing else brings it here in time: nobody else has to, and nothing
    /// happens while nothing waits.
    pub(crate) fn tend(&self, pagemend: &Pagemend, hub: &Hub, bell: &Bell) {
        if !self.router.is_pending() {
            return;
        }
        let tended = match self.router.tend(Instant::now()) {
            Ok(tended) => tended,
            Err(error) => {
                tracing::warn!(%error, "the memory in which the guest finds error records is lost");
                return bell.after(0, RETRY);
            }
        };
        for gpa in &tended.records.read {
            // Without a mender nothing is healed.
            let _ = pagemend.acknowledged(*gpa);
        }
        if !tended.records.read.is_empty() {
            let gpas = tended.records.read;
            hub.tell(What::RecordRead { gpas });
        }
        if !tended.records.posted.is_empty() {
            let gpas = tended.records.posted;
            hub.tell(What::RecordPosted { gpas });
        }
        if let Some(overdue) = tended.records.overdue {
            hub.tell(What::RecordsUnread {
                unread_ms: overdue.unread_for.as_millis() as u64,
                frames: overdue.frames,
            });
        }
        if let Some(Moved { to, frames }) = tended.moved {
            hub.tell(What::Rerouted { to, frames });
            if to == Way::Mce {
                bell.all();
            }
        }
        if let Some(time) = tended.records.look_after {
            bell.after(0, time);
        }
    }

    /// The guest starts again, and need not be told of what it lost before but for what is `lost`
    /// still.
    pub(crate) fn reset(&self, lost: &[GpaRange]) {
        if let Err(error) = self.router.reset() {
            tracing::warn!(%error, "the memory in which the guest finds error records is lost");
        }
        self.router.lost(lost.iter().copied(), Instant::now());
    }
}

/// What is to be reported where the guest is not told of all that is lost in a page.
fn withheld(page: GpaRange, queued: Queued) -> Option<What> {
    (queued.withheld > 0).then(|| What::FramesWithheld {
        gpa: page.start(),
        size: page.len(),
        told: queued.added + queued.known,
        withheld: queued.withheld,
    })
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
    fn take(&mut self, event: &Event, router: &Router<GuestRegion>, bell: &Bell) -> Vec<What> {
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
                // Most likely a vCPU has touched it, and is about to be told in a better way. If it
                // was a device, the guest hears of it a little later.
                let touched = self.touched.is_some();
                let delay = if touched { RETRY } else { Duration::ZERO };
                let routed = router.lost(lost.iter().copied(), Instant::now() + delay);
                match routed.way {
                    _ if routed.queued.added == 0 => {}
                    Way::Ghes => bell.after(0, delay),
                    Way::Mce if !touched => bell.all(),
                    Way::Mce => {
                        for vcpu in 0..router.machine_checks().config().vcpus {
                            bell.after(vcpu, delay);
                        }
                    }
                }
                // A vCPU that has touched a frame reports that itself, when it is told.
                let alone = |range: &&GpaRange| {
                    Some(range.start()) == self.touched && range.len() == FRAME_SIZE
                };
                let failures = lost
                    .iter()
                    .filter(|range| !alone(range))
                    .map(|range| What::failure(Recipient::Guest, FailureAction::Inject, *range));
                failures
                    .chain(withheld(event.page, routed.queued))
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
}

#[cfg(test)]
mod tests {
    use pagemend::Timestamp;

    use super::*;
    use crate::seccomp::{self, Seccomp, Task};

    /// What is reported of a loss of `frames` to a guest that is told of four.
    fn reported(frames: u64) -> Vec<What> {
        let config = deliver::Config {
            vendor: Vendor::Amd,
            signal: AoSignal::Record,
            recovers: true,
            banks: deliver::DEFAULT_BANKS,
            vcpus: 1,
            limit: 4,
        };
        let offered = Offered::new(Vendor::Amd, 0);
        let router = Router::new(Notify::Mce, offered, MachineChecks::new(config));
        let bell = Bell::new(seccomp::filter(Task::Bell, Seccomp::Off).unwrap()).unwrap();
        let lost = GpaRange::new(Gpa::new(2 << 20), frames * FRAME_SIZE).unwrap();
        let event = Event {
            schema: "pagemend.event/1",
            fault: 1,
            time: Timestamp::default(),
            duration_ns: 0,
            page: GpaRange::new(Gpa::new(2 << 20), 2 << 20).unwrap(),
            step: Step::Record {
                lost: vec![lost],
                lost_bytes: lost.len(),
            },
        };
        Fault::default().take(&event, &router, &bell)
    }

    #[test]
    fn frames_of_which_the_guest_is_not_told_untouched_are_reported() {
        let what = reported(512);
        assert_eq!(what.len(), 2);
        let What::FramesWithheld {
            gpa,
            size,
            told,
            withheld,
        } = what[1]
        else {
            panic!("{what:?}");
        };
        assert_eq!((gpa, size), (Gpa::new(2 << 20), 2 << 20));
        assert_eq!((told, withheld), (4, 508));
    }

    #[test]
    fn nothing_is_withheld_of_what_the_guest_is_told_of_as_a_whole() {
        let what = reported(4);
        assert!(matches!(what[..], [What::MemoryFailure { .. }]), "{what:?}");
    }
}
