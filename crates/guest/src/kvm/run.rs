//! A vCPU's run loop, one turn at a time: what has to be told, `KVM_RUN`, and what came of it.

use std::fmt;
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use pagemend_core::address::{Gpa, Hva};
use pagemend_linux::{VcpuFault, VcpuThread};
use vmm_sys_util::errno;

use super::vcpu::{KvmVcpu, RegisterError};
use super::watch::{register_read, register_written};
use crate::deliver::{Answer, Obstacle, Outcome, Teller};

/// `EINTR`, `EAGAIN` (include/uapi/asm-generic/errno-base.h): a signal ended `KVM_RUN`, or the vCPU
/// was not runnable and is by now.
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;

/// Whom the VMM has to make leave the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kick {
    /// All other vCPUs, now: they have to take part in a machine check.
    Others,
    /// This vCPU, if it is still in the guest after the time: what waits is to be tried again.
    After(Duration),
}

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn<T> {
    /// The vCPU left the guest; what the VMM made of it.
    Exit(T),
    /// The vCPU touched a page that was mended: next turn.
    Mended,
    /// The vCPU touched a lost frame, and takes a machine check in the next turn.
    Told {
        /// The frame.
        gpa: Gpa,
    },
    /// The vCPU touched a lost frame and cannot be told. It must not run on: to pause the guest,
    /// reset or stop it is the VMM's decision. The next turn leads here again.
    Refused {
        /// The frame.
        gpa: Gpa,
        /// Why not.
        obstacle: Obstacle,
    },
    /// The vCPU touched what is no guest memory, or no memory failure: an error of the VMM's.
    NotOurs {
        /// The address.
        hva: Hva,
    },
    /// The vCPU was kicked, or used a machine-check register: next turn.
    Again,
}

/// Why a turn failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// `KVM_RUN` failed, and not for its memory.
    #[error("the vCPU does not run")]
    Run(#[source] errno::Error),
    /// The vCPU's registers could not be used.
    #[error("the vCPU cannot be told of lost memory")]
    Tell(#[from] RegisterError),
}

/// A vCPU with all that belongs to running it over memory that fails. Stays on its thread.
pub struct GuestVcpu {
    fd: VcpuFd,
    mcg_cap: u64,
    thread: VcpuThread,
    teller: Teller,
    kick: Box<dyn FnMut(Kick)>,
}

impl fmt::Debug for GuestVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestVcpu")
            .field("teller", &self.teller)
            .finish_non_exhaustive()
    }
}

impl GuestVcpu {
    /// The vCPU `fd`, which was [set up](super::setup_vcpu) with `mcg_cap`, on its thread. `kick`
    /// does what a [`Kick`] says, and does not wait for it.
    pub fn new(
        fd: VcpuFd,
        mcg_cap: u64,
        thread: VcpuThread,
        teller: Teller,
        kick: impl FnMut(Kick) + 'static,
    ) -> Self {
        Self {
            fd,
            mcg_cap,
            thread,
            teller,
            kick: Box::new(kick),
        }
    }

    /// The vCPU, for everything else that a VMM does with it.
    pub fn fd(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// Tells the vCPU what it can take, runs it, and deals with lost memory and machine-check
    /// registers; every other exit goes to `on_exit`.
    pub fn turn<T>(
        &mut self,
        on_exit: impl FnOnce(VcpuExit<'_>) -> T,
    ) -> Result<Turn<T>, RunError> {
        let mut vcpu = KvmVcpu::new(&self.fd, self.mcg_cap);
        let outcome = self.teller.before_run(&mut vcpu)?;
        self.kick_for(&outcome);

        let (fd, config) = (&mut self.fd, self.teller.config());
        // What ended the run, without a hold on the vCPU, which the answer needs.
        enum Ended<T> {
            Exit(T),
            Read(u32),
            Written(u32, u64),
            Failed(errno::Error),
        }
        let watched = |msr| crate::deliver::watched(config).any(|(watched, _)| watched == msr);
        let ended = match self.thread.run(|| fd.run()) {
            Ok(VcpuExit::X86Rdmsr(exit)) if watched(exit.index) => Ended::Read(exit.index),
            Ok(VcpuExit::X86Wrmsr(exit)) if watched(exit.index) => {
                Ended::Written(exit.index, exit.data)
            }
            Ok(exit) => Ended::Exit(on_exit(exit)),
            Err(error) => Ended::Failed(error),
        };
        match ended {
            Ended::Exit(exit) => Ok(Turn::Exit(exit)),
            Ended::Read(msr) => {
                register_read(&mut self.fd, &mut self.teller, msr)?;
                Ok(Turn::Again)
            }
            Ended::Written(msr, value) => {
                register_written(&mut self.fd, &mut self.teller, msr, value)?;
                Ok(Turn::Again)
            }
            Ended::Failed(error) => match self.thread.take_fault() {
                Some(fault) => self.answer(fault),
                None if matches!(error.errno(), EINTR | EAGAIN) => Ok(Turn::Again),
                None => Err(RunError::Run(error)),
            },
        }
    }

    fn answer<T>(&mut self, fault: VcpuFault) -> Result<Turn<T>, RunError> {
        let gpa = match fault {
            VcpuFault::Mended => return Ok(Turn::Mended),
            VcpuFault::NotOurs { hva } => return Ok(Turn::NotOurs { hva }),
            VcpuFault::Lost { gpa } => gpa,
        };
        let mut vcpu = KvmVcpu::new(&self.fd, self.mcg_cap);
        match self.teller.touched(&mut vcpu, gpa)? {
            Answer::Refused(obstacle) => Ok(Turn::Refused { gpa, obstacle }),
            Answer::Told { kick_others, .. } => {
                if kick_others {
                    (self.kick)(Kick::Others);
                }
                Ok(Turn::Told { gpa })
            }
        }
    }

    fn kick_for(&mut self, outcome: &Outcome) {
        if outcome.kick_others {
            (self.kick)(Kick::Others);
        }
        if let Some(time) = outcome.retry_after {
            (self.kick)(Kick::After(time));
        }
    }
}
