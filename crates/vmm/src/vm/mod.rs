//! The machine as a whole: built, steered, and brought to its end.

mod build;

use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagemend::{BuildError, Gpa, GuestMemory, Pagemend};
use pagemend_guest::route::{Capability, Counts};

use crate::boot::{self, BootError};
use crate::chipset::{Chipset, ChipsetError};
use crate::config::{ConfigError, Untold, VmConfig};
use crate::control::Gate;
use crate::devices::Ports;
use crate::events::{Hub, What};
use crate::kick::Bell;
use crate::memory::{Blocks, Ram, RamError};
use crate::seccomp::SeccompError;
use crate::tell::{TellError, Told};
use crate::vcpu::{Report, chain};

/// Why there is no machine, or it could not be steered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// It was wished for in a way that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// KVM is not there for us.
    #[error("/dev/kvm cannot be used: is KVM there, and may you open it?")]
    NoKvm(#[source] kvm_ioctls::Error),
    /// KVM refused.
    #[error("KVM refuses {what}")]
    Kvm {
        /// What.
        what: &'static str,
        /// What it said.
        source: kvm_ioctls::Error,
    },
    /// The parts of a PC that KVM emulates are not to be had.
    #[error(transparent)]
    Chipset(#[from] ChipsetError),
    /// There is no guest memory.
    #[error(transparent)]
    Memory(#[from] RamError),
    /// The mender does not start.
    #[error("memory cannot be looked after")]
    Mender(#[from] BuildError),
    /// The payload cannot be run.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The guest cannot be told of lost memory.
    #[error(transparent)]
    Tell(#[from] TellError),
    /// A serial port has nowhere to go.
    #[error("the {port} cannot be opened")]
    Serial {
        /// Which.
        port: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread cannot be confined.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// A thread does not start.
    #[error("no thread for a vCPU")]
    Thread(#[source] io::Error),
    /// The machine has ended.
    #[error("the machine has ended")]
    Ended,
}

/// Whether vCPUs run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// They do.
    Running,
    /// They stand, and can be let go.
    Paused,
    /// It is over.
    Ended,
}

/// How a machine ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// The guest switched it off, or somebody did.
    Off,
    /// The guest could not go on.
    Crash(String),
}

/// A virtual machine.
pub struct Vm {
    config: VmConfig,
    gate: Arc<Gate>,
    /// Held by whoever starts or stops vCPUs.
    phase: Mutex<Phase>,
    bell: Bell,
    told: Told,
    reports: Mutex<Receiver<Report>>,
    owner: Sender<Report>,
    ram: Ram,
    pagemend: Arc<Pagemend>,
    ports: Ports,
    chipset: Chipset,
    hub: Hub,
    tsc_khz: u32,
}

impl Vm {
    /// Builds the machine and loads its payload. It stands until [`resume`](Self::resume).
    pub fn new(config: VmConfig) -> Result<Self, VmError> {
        config.check()?;
        let blocks = Blocks::new(&config.memory)?;
        Self::build(config, &blocks)
    }

    /// The same with memory that somebody else has made, of the kind and size that `config` says:
    /// the first 3 GiB of it, and then the rest.
    pub fn with_memory(config: VmConfig, memory: Vec<Arc<GuestMemory>>) -> Result<Self, VmError> {
        config.check()?;
        let blocks = Blocks::of(&config.memory, memory)?;
        Self::build(config, &blocks)
    }

    /// What it was built as.
    pub fn config(&self) -> &VmConfig {
        &self.config
    }

    /// Guest memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// What looks after guest memory.
    pub fn pagemend(&self) -> &Pagemend {
        &self.pagemend
    }

    /// Lost frames that the guest has not been told of yet.
    pub fn waiting(&self) -> Vec<Gpa> {
        self.told.waiting()
    }

    /// What the guest was told so far.
    pub fn told(&self) -> Counts {
        self.told.counts()
    }

    /// What the guest can be told by, as far as it has shown.
    pub fn capability(&self) -> Capability {
        self.told.capability()
    }

    /// What happens to it.
    pub fn events(&self) -> &Hub {
        &self.hub
    }

    /// Whether its vCPUs run.
    pub fn phase(&self) -> Phase {
        *self.steer()
    }

    fn steer(&self) -> MutexGuard<'_, Phase> {
        // A phase is whole whoever panicked.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn steer_living(&self) -> Result<MutexGuard<'_, Phase>, VmError> {
        let phase = self.steer();
        if *phase == Phase::Ended {
            return Err(VmError::Ended);
        }
        Ok(phase)
    }

    /// The phase, if the machine is still in its start number `start`. What a vCPU has reported of
    /// an earlier one is no concern of the guest that runs now.
    fn steer_in(&self, start: u64) -> Option<MutexGuard<'_, Phase>> {
        let phase = self.steer_living().ok()?;
        (self.gate.start() == start).then_some(phase)
    }

    fn stop_vcpus(&self) {
        self.gate.close();
        self.bell.all();
        self.gate.wait_until_parked();
    }

    /// Lets the vCPUs run.
    pub fn resume(&self) -> Result<(), VmError> {
        let mut phase = self.steer_living()?;
        *phase = Phase::Running;
        self.hub.tell(What::Resume);
        self.gate.open();
        Ok(())
    }

    /// Stops the vCPUs, and returns when the last one stands.
    pub fn pause(&self) -> Result<(), VmError> {
        self.pause_in(self.steer_living()?, None);
        Ok(())
    }

    fn pause_in(&self, mut phase: MutexGuard<'_, Phase>, reason: Option<String>) {
        self.stop_vcpus();
        *phase = Phase::Paused;
        self.hub.tell(What::Pause { reason });
    }

    /// Has the machine start again, with all of its memory: lost frames are given up for fresh
    /// memory. It runs or stands afterwards as it did before; where it cannot start it has ended.
    pub fn reset(&self) -> Result<(), VmError> {
        self.reset_in(self.steer_living()?, false)
    }

    /// What has to be undone for a start is undone by half where it fails: nobody may run on then.
    fn reset_in(&self, mut phase: MutexGuard<'_, Phase>, by_guest: bool) -> Result<(), VmError> {
        self.stop_vcpus();
        let again = self.start_again(*phase, by_guest);
        again.inspect_err(|error| {
            let reason = format!("the machine cannot start again: {}", chain(error));
            self.end_in(&mut phase, &End::Crash(reason.clone()));
            // For whoever waits for the end.
            let _ = self.owner.send(Report::Crash { reason });
        })
    }

    fn start_again(&self, phase: Phase, by_guest: bool) -> Result<(), VmError> {
        let before = self
            .pagemend
            .with_ledger(|ledger| ledger.iter().collect::<Vec<_>>());
        let memory = self.pagemend.reset().map_err(|_| VmError::Ended)?;
        self.told.reset(&memory.lost);
        self.chipset.reset()?;
        boot::load(&self.config.payload, &self.ram, self.config.vcpus, &before)?;
        self.gate.start_again();
        self.hub.tell(What::Reset { by_guest });
        if phase == Phase::Running {
            self.gate.open();
        }
        Ok(())
    }

    /// Switches the machine off.
    pub fn shut_down(&self) {
        // Whoever waits for reports is the one to end it.
        let _ = self.owner.send(Report::Off);
    }

    /// Deals with what the vCPUs report until the machine has ended, on the calling thread.
    ///
    /// # Errors
    ///
    /// [`VmError::Ended`] if somebody was told of its end before.
    pub fn run_to_the_end(&self) -> Result<End, VmError> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let end = loop {
            let report = match self.phase() {
                // What has ended says why, once.
                Phase::Ended => reports.try_recv().map_err(|_| VmError::Ended)?,
                Phase::Running | Phase::Paused => reports
                    .recv()
                    .expect("the machine itself keeps a sender of reports"),
            };
            match report {
                Report::Off => break End::Off,
                Report::Crash { reason } => break End::Crash(reason),
                Report::Reset { start } => {
                    if let Some(phase) = self.steer_in(start) {
                        self.reset_or_crash(phase, true);
                    }
                }
                Report::Untold { start, gpa, reason } => {
                    let Some(phase) = self.steer_in(start) else {
                        continue;
                    };
                    match self.config.untold {
                        // Another vCPU has met the same, or somebody was faster.
                        Untold::Pause if *phase == Phase::Paused => {}
                        Untold::Pause => self.pause_in(phase, Some(untold(gpa, &reason))),
                        Untold::Reset => self.reset_or_crash(phase, false),
                        Untold::Stop => break End::Crash(untold(gpa, &reason)),
                    }
                }
            }
        };
        self.end(&end);
        Ok(end)
    }

    fn reset_or_crash(&self, phase: MutexGuard<'_, Phase>, by_guest: bool) {
        // Where it fails, a report that says so follows.
        let _ = self.reset_in(phase, by_guest);
    }

    fn end(&self, end: &End) {
        let mut phase = self.steer();
        if *phase != Phase::Ended {
            self.end_in(&mut phase, end);
        }
    }

    fn end_in(&self, phase: &mut Phase, end: &End) {
        self.gate.end();
        self.bell.all();
        self.gate.wait_until_gone();
        *phase = Phase::Ended;
        let reason = match end {
            End::Off => "switched off".to_owned(),
            End::Crash(reason) => reason.clone(),
        };
        self.hub.tell(What::Shutdown { reason });
    }

    /// How fast the guest's time stamp counter runs, in kHz.
    pub fn tsc_khz(&self) -> u32 {
        self.tsc_khz
    }

    /// Has the guest read `input` from its console; waits until there is room for it.
    pub fn type_in(&self, input: &[u8]) -> io::Result<()> {
        self.ports.console.feed(input)
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.gate.end();
        self.bell.all();
        self.gate.wait_until_gone();
    }
}

fn untold(gpa: Gpa, reason: &str) -> String {
    format!("the guest touched lost memory at {gpa} and cannot be told: {reason}")
}
