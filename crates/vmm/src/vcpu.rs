//! A vCPU's thread: through the gate, into the guest, and what came out of it.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use pagemend::{Gpa, Hva, Pagemend, VcpuFault, VcpuThread};

use crate::boot::{self, Entry};
use crate::control::{Gate, Go};
use crate::cpu::registers::{self, Registers};
use crate::devices::{Demand, Ports};
use crate::kick;
use crate::seccomp::Filter;

/// What a vCPU says to whoever steers the machine. The gate is closed before it is said, so the
/// vCPU does not go on until it has been dealt with.
#[derive(Debug)]
pub(crate) enum Report {
    /// The guest asks for something.
    Demand(Demand),
    /// The guest touched a frame that is lost, and cannot be told.
    Untold { gpa: Gpa, reason: String },
    /// The guest is at its end, and did not want to be.
    Crash { reason: String },
}

/// A vCPU before it has a thread.
pub(crate) struct Vcpu {
    index: u8,
    fd: VcpuFd,
    initial: Registers,
}

/// What all vCPUs of a machine share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) gate: Arc<Gate>,
    pub(crate) ports: Ports,
    pub(crate) pagemend: Arc<Pagemend>,
    pub(crate) reports: Sender<Report>,
    pub(crate) entry: Entry,
    pub(crate) filter: Arc<Filter>,
}

impl Vcpu {
    /// Takes a vCPU that has its CPUID.
    pub(crate) fn new(kvm: &Kvm, fd: VcpuFd, index: u8) -> Result<Self, kvm_ioctls::Error> {
        registers::initialize(&fd)?;
        let initial = Registers::of(kvm, &fd)?;
        Ok(Self { index, fd, initial })
    }

    /// As it was made, and where it starts.
    fn start(&self, entry: &Entry) -> Result<(), kvm_ioctls::Error> {
        self.initial.restore(&self.fd)?;
        if self.index == 0 || entry.all {
            self.fd.set_mp_state(kvm_bindings::kvm_mp_state {
                mp_state: kvm_bindings::KVM_MP_STATE_RUNNABLE,
            })?;
            boot::enter_long_mode(&self.fd, entry, self.index)?;
        }
        Ok(())
    }

    /// Runs until the gate says that it is over.
    pub(crate) fn run(mut self, around: &Surroundings) {
        if let Err(reason) = self.run_until_the_end(around) {
            around.gate.close();
            let crash = Report::Crash {
                reason: format!("vCPU {}: {reason}", self.index),
            };
            // Nobody listens any more only when the machine ends anyway.
            let _ = around.reports.send(crash);
            // It stands at the gate until the machine ends; a reset cannot revive it.
            while around.gate.pass(&mut 0) != Go::End {}
        }
        around.gate.leave();
    }

    fn run_until_the_end(&mut self, around: &Surroundings) -> Result<(), String> {
        around.filter.apply().map_err(|error| error.to_string())?;
        kick::listen(&self.fd).map_err(|error| error.to_string())?;
        let mut thread = around
            .pagemend
            .vcpu_thread()
            .map_err(|error| error.to_string())?;
        let text = |error: kvm_ioctls::Error| format!("KVM refuses its registers: {error}");
        let mut started = 0;
        self.start(&around.entry).map_err(text)?;
        loop {
            match around.gate.pass(&mut started) {
                Go::Run => {}
                Go::Reset => {
                    self.start(&around.entry).map_err(text)?;
                    continue;
                }
                Go::End => return Ok(()),
            }
            if let Some(report) = self.enter(&mut thread, &around.ports) {
                around.gate.close();
                let _ = around.reports.send(report);
            }
        }
    }

    /// Once into the guest and out again.
    fn enter(&mut self, thread: &mut VcpuThread, ports: &Ports) -> Option<Report> {
        let vcpu = &mut self.fd;
        let exit = thread.run(move || vcpu.run());
        let crash = |what: String| {
            Some(Report::Crash {
                reason: format!("vCPU {}: {what}", self.index),
            })
        };
        match exit {
            Ok(VcpuExit::IoIn(port, data)) => {
                ports.read(port, data);
                None
            }
            Ok(VcpuExit::IoOut(port, data)) => ports.write(port, data).map(Report::Demand),
            // Nothing is there: reads are all ones, writes go nowhere.
            Ok(VcpuExit::MmioRead(_, data)) => {
                data.fill(0xff);
                None
            }
            Ok(VcpuExit::MmioWrite(..) | VcpuExit::Intr) => None,
            Ok(VcpuExit::Shutdown) => crash("triple fault".to_owned()),
            Ok(other) => crash(format!("KVM_RUN ended with {other:?}")),
            Err(error) if error.errno() == libc::EAGAIN => None,
            Err(error) => {
                kick::heard();
                match thread.take_fault() {
                    Some(VcpuFault::Mended) => None,
                    Some(VcpuFault::Lost { gpa }) => self.tell(gpa),
                    Some(VcpuFault::NotOurs { hva }) => crash(no_memory(hva)),
                    None if error.errno() == libc::EINTR => None,
                    None => crash(format!("KVM_RUN failed: {error}")),
                }
            }
        }
    }

    fn tell(&mut self, gpa: Gpa) -> Option<Report> {
        Some(Report::Untold {
            gpa,
            reason: String::new(),
        })
    }
}

fn no_memory(hva: Hva) -> String {
    format!("its memory cannot be reached at host address {hva}, and no memory failure is why")
}
