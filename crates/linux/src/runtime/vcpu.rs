//! A vCPU's thread: `KVM_RUN` between [`run`](VcpuThread::run) and
//! [`take_fault`](VcpuThread::take_fault).
//!
//! How `KVM_RUN` ends at failed memory depends on who touched it (seen on 6.18):
//!
//! | who | how it ends | what to ask |
//! |---|---|---|
//! | the processor, in the guest | EINTR and SIGBUS with the address | `take_fault` |
//! | KVM itself, as it emulates an instruction | `KVM_EXIT_MMIO` at an address of guest memory | `take_fault_at` |
//! | KVM, where it can say where (6.8) | EFAULT or EHWPOISON and `KVM_EXIT_MEMORY_FAULT` | `take_fault`, then `take_fault_at` |
//! | KVM, as it emulates an instruction that is itself in failed memory | `KVM_EXIT_INTERNAL_ERROR` or a guest's triple fault | nothing says where |

use std::marker::PhantomData;
use std::sync::Arc;

use pagemend_core::address::{Gpa, Hva};
use pagemend_core::fault::{Fault, Verdict};

use super::Place;
use crate::intake::threads::{self, Registration};
use crate::intake::{ranges, slot};

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
    places: Arc<[Place]>,
    /// The registration is of one thread: the type must not be sent to another.
    _thread: PhantomData<*const ()>,
}

impl VcpuThread {
    pub(super) fn new(places: Arc<[Place]>) -> Result<Self, TooManyVcpus> {
        Ok(Self {
            registration: threads::register().ok_or(TooManyVcpus)?,
            pending: None,
            places,
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
        self.pending.take().map(|fault| ask(&fault))
    }

    /// Whether a memory failure ended the last run.
    pub(super) fn has_fault(&self) -> bool {
        self.pending.is_some()
    }

    /// The memory failure at an address at which `KVM_RUN` ended without a signal: that of
    /// `KVM_EXIT_MEMORY_FAULT`, or of `KVM_EXIT_MMIO`. `None` where it is no guest memory, so that an
    /// exit for a device is an ordinary one. Touches the address, and waits until a failure there is
    /// dealt with.
    ///
    /// `KVM_EXIT_MMIO` at an address of guest memory is KVM's way to say that it could not read or
    /// write there while it emulated an instruction; a VMM that answers it as it answers an address
    /// without a device gives the guest bytes that were never in its memory. After `Mended` the VMM
    /// does the access itself, by [guarded access](crate::guard::GuestRegion): what it reads goes
    /// into the exit's data, what the data holds is written. After `Lost` the instruction must not be
    /// completed with whatever the data holds: take the registers (`KVM_GET_REGS`), end the exit with
    /// `immediate_exit` set, set the registers again, so that the instruction has not been executed,
    /// and inject.
    pub fn take_fault_at(&mut self, gpa: Gpa) -> Option<VcpuFault> {
        let hva = self.places.iter().find_map(|place| {
            let offset = place.gpa.offset_of(gpa)?;
            place.hva.at(offset)
        })?;
        if !ranges::contain(hva) {
            // There is no mender any more who could be asked.
            return Some(VcpuFault::NotOurs { hva });
        }
        // SAFETY: guest memory stays mapped for as long as there is a mender.
        let fault = unsafe { self.registration.touch(hva) };
        Some(fault.map_or(VcpuFault::Mended, |fault| ask(&fault)))
    }
}

/// Waits for the answer to a fault.
fn ask(fault: &Fault) -> VcpuFault {
    match slot::ask(fault) {
        Verdict::Mended => VcpuFault::Mended,
        Verdict::Lost { gpa } => VcpuFault::Lost { gpa },
        Verdict::NotOurs => VcpuFault::NotOurs { hva: fault.address },
    }
}
