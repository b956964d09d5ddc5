//! A vCPU's run loop, one turn at a time: what has to be told, `KVM_RUN`, and what came of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kvm_ioctls::{VcpuExit, VcpuFd};
use pagemend_core::address::{Gpa, Hva};
use pagemend_linux::{Pagemend, TooManyVcpus, VcpuFault, VcpuThread};
use vmm_sys_util::errno;

use super::memory::{Instruction, Memory, Unreached, finish, undo};
use super::vcpu::{KvmVcpu, RegisterError};
use super::watch::{register_read, register_written};
use crate::deliver::{Answer, Obstacle, Outcome, Teller};

/// `EINTR`, `EAGAIN` (include/uapi/asm-generic/errno-base.h): a signal ended `KVM_RUN`, or the vCPU
/// was not runnable and is by now.
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;

/// In how many turns in a row KVM may miss memory that is in order. Once is a mend; more is one
/// error after another in the same page, or no memory failure at all.
const UNREACHED: u32 = 16;

/// Whom the VMM has to make leave the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kick {
    /// All other vCPUs, now: they have to take part in a machine check.
    Others,
    /// This vCPU, if it is still in the guest after the time: what waits is to be tried again.
    After(Duration),
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn<T> {
    /// The vCPU left the guest; what the VMM made of it.
    Exit(T),
    /// The vCPU touched a page that was mended: next turn.
    Mended,
    /// The vCPU touched a lost frame, and takes a machine check in the next turn: at the
    /// instruction, or behind it if KVM emulates a store.
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
    /// KVM cannot use memory that is in order: it may be mapped without the access that the guest
    /// wants.
    #[error(
        "KVM cannot reach the guest's memory at {gpa}, which is in order: check how it is mapped"
    )]
    Unreachable {
        /// Where.
        gpa: Gpa,
    },
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
    pagemend: Arc<Pagemend>,
    memory: Memory,
    thread: VcpuThread,
    teller: Teller,
    kick: Box<dyn FnMut(Kick)>,
    /// What KVM could not reach in the last turns, though there was memory, and in how many.
    unreached: Option<(Gpa, u32)>,
    /// In how many of the last turns KVM could not emulate an instruction.
    stuck: u32,
    /// A lost frame that the vCPU has stored to and could not be told of: it will not touch it
    /// again by itself.
    owed: Option<Gpa>,
}

impl fmt::Debug for GuestVcpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestVcpu")
            .field("teller", &self.teller)
            .finish_non_exhaustive()
    }
}

impl GuestVcpu {
    /// The vCPU `fd`, which was [set up](super::setup_vcpu) with `mcg_cap`, on the calling thread.
    /// `kick` does what a [`Kick`] says, and does not wait for it.
    pub fn new(
        fd: VcpuFd,
        mcg_cap: u64,
        pagemend: Arc<Pagemend>,
        teller: Teller,
        kick: impl FnMut(Kick) + 'static,
    ) -> Result<Self, TooManyVcpus> {
        Ok(Self {
            fd,
            mcg_cap,
            thread: pagemend.vcpu_thread()?,
            memory: Memory::of(&pagemend),
            pagemend,
            teller,
            kick: Box::new(kick),
            unreached: None,
            stuck: 0,
            owed: None,
        })
    }

    /// The vCPU, for everything else that a VMM does with it.
    pub fn fd(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// The guest was reset: what this vCPU touched before concerns nobody any more, and the
    /// instruction that it left the guest with is over. To be called before its registers are set.
    ///
    /// # Errors
    ///
    /// KVM's: it does not end that instruction.
    pub fn reset(&mut self) -> Result<(), RunError> {
        self.unreached = None;
        self.stuck = 0;
        self.owed = None;
        finish(&mut self.fd).map_err(RunError::Run)
    }

    /// Tells the vCPU what it can take, runs it, and deals with lost memory and machine-check
    /// registers; every other exit goes to `on_exit`.
    pub fn turn<T>(
        &mut self,
        on_exit: impl FnOnce(VcpuExit<'_>) -> T,
    ) -> Result<Turn<T>, RunError> {
        if let Some(gpa) = self.owed {
            return self.answer(VcpuFault::Lost { gpa });
        }
        let mut vcpu = KvmVcpu::new(&self.fd, self.mcg_cap);
        let outcome = self.teller.before_run(&mut vcpu)?;
        self.kick_for(&outcome);

        let (fd, config) = (&mut self.fd, self.teller.config());
        // What ended the run, without a hold on the vCPU, which the answer needs.
        enum Ended<T> {
            Exit(T),
            Read(u32),
            Written(u32, u64),
            Unreached(Unreached),
            Stuck,
            Failed(errno::Error),
        }
        let watched = |msr| crate::deliver::watched(config).any(|(watched, _)| watched == msr);
        let (memory, pagemend, stuck) = (&self.memory, &self.pagemend, self.stuck);
        let ended = match self.thread.run(|| fd.run()) {
            Ok(VcpuExit::X86Rdmsr(exit)) if watched(exit.index) => Ended::Read(exit.index),
            Ok(VcpuExit::X86Wrmsr(exit)) if watched(exit.index) => {
                Ended::Written(exit.index, exit.data)
            }
            // KVM could not read an instruction that it has to emulate, and does not say where it is.
            Ok(VcpuExit::InternalError) if stuck < UNREACHED => Ended::Stuck,
            Ok(mut exit) => match memory.reach(pagemend, &mut exit) {
                Some(unreached) => Ended::Unreached(unreached),
                None => Ended::Exit(on_exit(exit)),
            },
            Err(error) => Ended::Failed(error),
        };
        let before = self.unreached.take();
        self.stuck = match ended {
            Ended::Stuck => stuck + 1,
            _ => 0,
        };
        match ended {
            Ended::Exit(exit) => Ok(Turn::Exit(exit)),
            Ended::Read(msr) => {
                register_read(&mut self.fd, &mut self.teller, msr)?;
                Ok(Turn::Again)
            }
            Ended::Written(msr, value) => {
                register_written(&mut self.fd, &mut self.teller, msr, value)?;
                for gpa in self.teller.take_acknowledged() {
                    // Without a mender nothing is healed.
                    let _ = self.pagemend.acknowledged(gpa);
                }
                Ok(Turn::Again)
            }
            Ended::Unreached(it) => self.missed(it, before),
            Ended::Stuck => {
                self.pagemend.settle();
                Ok(Turn::Mended)
            }
            Ended::Failed(error) => match self.thread.take_fault() {
                Some(fault) => self.answer(fault),
                None if matches!(error.errno(), EINTR | EAGAIN) => Ok(Turn::Again),
                None => Err(RunError::Run(error)),
            },
        }
    }

    /// KVM could not reach guest memory, and has made an exit of it.
    fn missed<T>(
        &mut self,
        it: Unreached,
        before: Option<(Gpa, u32)>,
    ) -> Result<Turn<T>, RunError> {
        match (it.fault, it.instruction) {
            (VcpuFault::Mended, Instruction::Ahead) => {
                let turns = before.filter(|(gpa, _)| *gpa == it.gpa);
                let turns = turns.map_or(1, |(_, turns)| turns + 1);
                if turns > UNREACHED {
                    return Err(RunError::Unreachable { gpa: it.gpa });
                }
                self.unreached = Some((it.gpa, turns));
            }
            (VcpuFault::Mended, _) | (_, Instruction::Ahead) => {}
            (_, Instruction::Loading) => undo(&mut self.fd).map_err(RunError::Run)?,
            (VcpuFault::Lost { gpa }, Instruction::Behind) => self.owed = Some(gpa),
            (VcpuFault::NotOurs { .. }, Instruction::Behind) => {}
        }
        self.answer(it.fault)
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
                self.owed = None;
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
