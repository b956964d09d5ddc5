//! A vCPU's thread: `KVM_RUN` between [`run`](VcpuThread::run) and
//! [`take_fault`](VcpuThread::take_fault).

use std::marker::PhantomData;

use pagemend_core::address::{Gpa, Hva};
use pagemend_core::fault::{Fault, Verdict};

use crate::intake::slot;
use crate::intake::threads::{self, Registration};

/// What became of the memory that a vCPU touched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VcpuFault {
    /// It is in order: run the vCPU again.
    Mended,
    /// The bytes are lost: tell the guest, with a machine check or an abort for this frame, and
    /// run the vCPU again.
    Lost {
        /// The frame.
        gpa: Gpa,
    },
    /// No guest memory, or no memory failure: an ordinary error of the VMM's.
    NotOurs {
        /// The address.
        hva: Hva,
    },
}

/// There are as many vCPU threads as there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more than 4608 threads can be registered as vCPUs at a time")]
pub struct TooManyVcpus;

/// The calling thread, registered as one that runs a vCPU. Stays on its thread.
#[derive(Debug)]
pub struct VcpuThread {
    registration: Registration,
    pending: Option<Fault>,
    /// The registration is of one thread: the type must not be sent to another.
    _thread: PhantomData<*const ()>,
}

impl VcpuThread {
    pub(super) fn new() -> Result<Self, TooManyVcpus> {
        Ok(Self {
            registration: threads::register().ok_or(TooManyVcpus)?,
            pending: None,
            _thread: PhantomData,
        })
    }

    /// Runs `guest`, which is the `KVM_RUN` call and nothing besides: a memory failure inside it
    /// is the guest's, and is kept for [`take_fault`](Self::take_fault).
    pub fn run<T>(&mut self, guest: impl FnOnce() -> T) -> T {
        /// Leaves the guest, also where the call panics.
        struct Leave<'a>(&'a mut VcpuThread);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.pending = self.0.registration.leave().or(self.0.pending);
            }
        }
        self.registration.enter();
        let _leave = Leave(self);
        guest()
    }

    /// The memory failure that ended the last run, if one did: waits until it is dealt with. To
    /// be called when `KVM_RUN` has failed with EINTR or EHWPOISON.
    pub fn take_fault(&mut self) -> Option<VcpuFault> {
        let fault = self.pending.take()?;
        Some(match slot::ask(&fault) {
            Verdict::Mended => VcpuFault::Mended,
            Verdict::Lost { gpa } => VcpuFault::Lost { gpa },
            Verdict::NotOurs => VcpuFault::NotOurs { hva: fault.address },
        })
    }
}
