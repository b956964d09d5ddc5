//! A vCPU's thread: through the gate, into the guest, and what came out of it.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use pagemend::{Gpa, Pagemend};
use pagemend_guest::deliver::{Obstacle, Teller};
use pagemend_guest::kvm::{GuestVcpu, Kick, Turn};

use crate::boot::{self, Entry};
use crate::config::Untold;
use crate::control::{Gate, Go};
use crate::cpu::registers::{self, Registers};
use crate::devices::{Demand, Ports};
use crate::events::{FailureAction, Hub, What};
use crate::kick::{self, Bell};
use crate::seccomp::Filter;
use crate::tell::Told;

/// What a vCPU says to whoever steers the machine. The gate is closed before it is said, so the
/// vCPU does not go on until it has been dealt with. Several may say so at once: what a new start
/// takes care of has the number of the start that it is about, and counts for that one alone.
#[derive(Debug)]
pub(crate) enum Report {
    /// The guest is to be switched off.
    Off,
    /// The guest asks to start again.
    Reset { start: u64 },
    /// The guest touched a frame that is lost, and cannot be told.
    Untold {
        start: u64,
        gpa: Gpa,
        reason: String,
    },
    /// The guest is at its end, and did not want to be.
    Crash { reason: String },
}

/// A vCPU before it has a thread.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    mcg_cap: u64,
    teller: Teller,
    origin: Origin,
}

/// Where a vCPU starts, and starts again.
struct Origin {
    index: u8,
    registers: Registers,
}

/// What all vCPUs of a machine share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) gate: Arc<Gate>,
    pub(crate) bell: Bell,
    pub(crate) ports: Ports,
    pub(crate) hub: Hub,
    pub(crate) pagemend: Arc<Pagemend>,
    pub(crate) reports: Sender<Report>,
    pub(crate) entry: Entry,
    pub(crate) told: Told,
    pub(crate) untold: Untold,
    pub(crate) filter: Arc<Filter>,
}

impl Origin {
    /// Puts a vCPU there.
    fn start(&self, vcpu: &VcpuFd, entry: &Entry) -> Result<(), kvm_ioctls::Error> {
        self.registers.restore(vcpu)?;
        if self.index == 0 || entry.all {
            vcpu.set_mp_state(kvm_bindings::kvm_mp_state {
                mp_state: kvm_bindings::KVM_MP_STATE_RUNNABLE,
            })?;
            boot::enter_long_mode(vcpu, entry, self.index)?;
        }
        Ok(())
    }
}

impl Vcpu {
    /// Takes a vCPU that has its CPUID and its machine-check banks.
    pub(crate) fn new(
        kvm: &Kvm,
        fd: VcpuFd,
        index: u8,
        mcg_cap: u64,
        teller: Teller,
    ) -> Result<Self, kvm_ioctls::Error> {
        registers::initialize(&fd)?;
        let registers = Registers::of(kvm, &fd, mcg_cap)?;
        Ok(Self {
            fd,
            mcg_cap,
            teller,
            origin: Origin { index, registers },
        })
    }

    /// Runs until the gate says that it is over.
    pub(crate) fn run(self, around: Surroundings) {
        let gate = Arc::clone(&around.gate);
        self.run_in(&around);
        // Whoever waits for the last vCPU may count on its having let go of everything.
        drop(around);
        gate.leave();
    }

    fn run_in(self, around: &Surroundings) {
        let index = self.origin.index;
        if let Err(reason) = self.run_until_the_end(around) {
            around.gate.close();
            let crash = Report::Crash {
                reason: format!("vCPU {index}: {reason}"),
            };
            // Nobody listens any more only when the machine ends anyway.
            let _ = around.reports.send(crash);
            // It stands at the gate until the machine ends; a reset cannot revive it.
            while around.gate.pass(&mut 0) != Go::End {}
        }
    }

    fn run_until_the_end(self, around: &Surroundings) -> Result<(), String> {
        let text = |error: kvm_ioctls::Error| format!("KVM refuses its registers: {error}");
        let Self {
            fd,
            mcg_cap,
            teller,
            origin,
        } = self;
        around.filter.apply().map_err(|error| chain(&error))?;
        kick::listen(&fd).map_err(|error| error.to_string())?;
        origin.start(&fd, &around.entry).map_err(text)?;
        let (bell, index) = (around.bell.clone(), usize::from(origin.index));
        let kick = move |kick| match kick {
            Kick::Others => bell.others(index),
            Kick::After(time) => bell.after(index, time),
        };
        let pagemend = Arc::clone(&around.pagemend);
        let mut vcpu = GuestVcpu::new(fd, mcg_cap, pagemend, teller, kick)
            .map_err(|error| error.to_string())?;
        let mut started = 0;
        loop {
            match around.gate.pass(&mut started) {
                Go::Run => {}
                Go::Reset => {
                    vcpu.reset().map_err(|error| chain(&error))?;
                    origin.start(vcpu.fd(), &around.entry).map_err(text)?;
                    continue;
                }
                Go::End => return Ok(()),
            }
            let report = turn(&mut vcpu, started, around)
                .map_err(|reason| format!("{reason}, {}", standing(vcpu.fd())))?;
            if origin.index == 0 {
                around
                    .told
                    .tend(&around.pagemend, &around.hub, &around.bell);
            }
            if let Some(report) = report {
                around.gate.close();
                let _ = around.reports.send(report);
            }
        }
    }
}

/// Where a vCPU stands that cannot go on, for whoever has to find out why. One that a processor has
/// shut down has nothing to tell: KVM resets it, and it stands at the first instruction there is.
fn standing(vcpu: &VcpuFd) -> String {
    match (vcpu.get_regs(), vcpu.get_sregs()) {
        (Ok(registers), Ok(special)) => format!(
            "at rip {:#x} with rsp {:#x}, rflags {:#x}, cr0 {:#x}, cr2 {:#x}, cr3 {:#x}, cr4 {:#x}, idt {:#x}",
            registers.rip,
            registers.rsp,
            registers.rflags,
            special.cr0,
            special.cr2,
            special.cr3,
            special.cr4,
            special.idt.base
        ),
        _ => "and its registers cannot be read".to_owned(),
    }
}

/// Once into the guest, which is in its start number `start`, and out again.
fn turn(vcpu: &mut GuestVcpu, start: u64, around: &Surroundings) -> Result<Option<Report>, String> {
    let turn = vcpu.turn(|exit| serve(exit, &around.ports));
    // Heard by now, whatever it came to: the gate is next, and what waits is looked at there.
    kick::heard();
    match turn.map_err(|error| chain(&error))? {
        Turn::Exit(served) => Ok(served?.map(|demand| match demand {
            Demand::Off => Report::Off,
            Demand::Reset => Report::Reset { start },
        })),
        Turn::Mended | Turn::Again => Ok(None),
        Turn::Told { gpa } => {
            around.told.touched(gpa);
            around
                .hub
                .tell(What::touched(FailureAction::Inject, false, gpa));
            Ok(None)
        }
        Turn::Refused { gpa, obstacle } => {
            around.hub.tell(refused(around.untold, obstacle, gpa));
            let reason = obstacle.to_string();
            Ok(Some(Report::Untold { start, gpa, reason }))
        }
        Turn::NotOurs { hva } => Err(format!(
            "its memory cannot be reached at host address {hva}, and no memory failure is why"
        )),
    }
}

/// What is reported of a touch of which the guest cannot be told.
fn refused(untold: Untold, obstacle: Obstacle, gpa: Gpa) -> What {
    let action = match untold {
        Untold::Reset => FailureAction::Reset,
        Untold::Pause | Untold::Stop => FailureAction::Fatal,
    };
    What::touched(action, obstacle == Obstacle::InProgress, gpa)
}

fn serve(exit: VcpuExit<'_>, ports: &Ports) -> Result<Option<Demand>, String> {
    match exit {
        VcpuExit::IoIn(port, data) => ports.read(port, data),
        VcpuExit::IoOut(port, data) => return Ok(ports.write(port, data)),
        // Nothing is there: reads are all ones, writes go nowhere.
        VcpuExit::MmioRead(_, data) => data.fill(0xff),
        VcpuExit::MmioWrite(..) | VcpuExit::Intr => {}
        VcpuExit::Shutdown => return Err("triple fault".to_owned()),
        other => return Err(format!("KVM_RUN ended with {other:?}")),
    }
    Ok(None)
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_touch_in_the_middle_of_a_machine_check_is_recursive_whatever_becomes_of_the_guest() {
        for untold in [Untold::Stop, Untold::Pause, Untold::Reset] {
            let recursive = |obstacle| match refused(untold, obstacle, Gpa::new(0x1008)) {
                What::MemoryFailure { gpa, flags, .. } => {
                    assert_eq!((gpa, flags.action_required), (Gpa::new(0x1000), true));
                    flags.recursive
                }
                other => panic!("{other:?}"),
            };
            assert!(recursive(Obstacle::InProgress));
            assert!(!recursive(Obstacle::MachineChecksOff));
        }
    }
}
