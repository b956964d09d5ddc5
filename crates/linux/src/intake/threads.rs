//! Threads that run vCPUs: they meet faults inside `KVM_RUN` and must not wait in the handler.
//!
//! `KVM_RUN` ends with EINTR and a signal; executing "the access" again would mean nothing. So the
//! handler leaves the address here, and the thread asks for the answer when the call has returned.
//! Looked up by thread id, because thread-local storage of a library may allocate at first use.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use pagemend_core::address::Hva;
use pagemend_core::fault::{Evidence, Fault};
use pagemend_core::ledger::Cause;

use crate::guard;

/// How many vCPU threads a process can have: above KVM's own limit on x86-64, 4096.
const MAX_THREADS: usize = 4608;

/// In no guest: a fault is the thread's own access.
const OUTSIDE: u32 = 0;
/// In `KVM_RUN`.
const INSIDE: u32 = 1;
/// In `KVM_RUN`, with a fault to ask about.
const FAULTED: u32 = 2;
/// The same, on a kernel that only says that the address has no memory.
const ADDRESS_ERROR: u32 = 3;
/// In a guarded touch by which it finds out what is wrong with an address: not to be repeated.
const TOUCHING: u32 = 4;

/// Whose a fault is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    /// The thread's own, which waits for the answer and executes its access again.
    Thread,
    /// The guest's: the thread asks when `KVM_RUN` has returned.
    Guest,
    /// The guest's, found by a guarded touch, which ends here.
    Touch,
}

struct Entry {
    /// 0 where it is free.
    thread: AtomicI32,
    state: AtomicU32,
    address: AtomicU64,
}

static TABLE: [Entry; MAX_THREADS] = [const {
    Entry {
        thread: AtomicI32::new(0),
        state: AtomicU32::new(OUTSIDE),
        address: AtomicU64::new(0),
    }
}; MAX_THREADS];
/// One more than the highest entry ever used: what a search has to look at.
static USED: AtomicU32 = AtomicU32::new(0);

/// Async-signal-safe.
pub(crate) fn current() -> i32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// The calling thread's place in the table.
#[derive(Debug)]
pub(crate) struct Registration(usize);

/// Registers the calling thread, or gives `None` where the table is full.
pub(crate) fn register() -> Option<Registration> {
    let thread = current();
    let free = TABLE.iter().position(|entry| {
        entry
            .thread
            .compare_exchange(0, thread, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    })?;
    TABLE[free].state.store(OUTSIDE, Ordering::Relaxed);
    USED.fetch_max(free as u32 + 1, Ordering::AcqRel);
    Some(Registration(free))
}

impl Registration {
    /// From now until [`leave`](Self::leave), faults of this thread are the guest's.
    pub(crate) fn enter(&self) {
        TABLE[self.0].state.store(INSIDE, Ordering::Relaxed);
    }

    /// What comes of touching guest memory at `hva`.
    ///
    /// # Safety
    ///
    /// The frame around `hva` is mapped for reading, and stays mapped. The memory may be lost.
    pub(crate) unsafe fn touch(&self, hva: Hva) -> Option<Fault> {
        TABLE[self.0].state.store(TOUCHING, Ordering::Relaxed);
        let from = std::ptr::with_exposed_provenance(hva.get() as usize);
        // SAFETY: as promised by the caller. Whatever it gives, the handler has left more.
        let _ = unsafe { guard::try_touch(from, 1) };
        // What is touched is the byte's cache line, from its start.
        self.leave().map(|fault| Fault {
            address: hva,
            ..fault
        })
    }

    /// The fault that came since [`enter`](Self::enter).
    pub(crate) fn leave(&self) -> Option<Fault> {
        let entry = &TABLE[self.0];
        let evidence = match entry.state.swap(OUTSIDE, Ordering::Relaxed) {
            FAULTED => Evidence::MemoryFailure,
            ADDRESS_ERROR => Evidence::AddressError,
            _ => return None,
        };
        Some(Fault {
            address: Hva::new(entry.address.load(Ordering::Relaxed)),
            cause: Cause::ActionRequired,
            evidence,
        })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        TABLE[self.0].thread.store(0, Ordering::Release);
    }
}

/// Leaves the fault with the calling thread if that is inside a guest. A second one before it has
/// left is not: that is an access of the thread's own, which is executed again and again, and has
/// to wait here. Async-signal-safe: the entry is only ever used by its own thread, so program order
/// is all the order that it needs.
pub(crate) fn leave_with_guest(fault: &Fault) -> Owner {
    let thread = current();
    let used = USED.load(Ordering::Acquire) as usize;
    // A thread that is registered twice is inside one of its guests at most.
    let inside = TABLE.iter().take(used).find_map(|entry| {
        let ours = entry.thread.load(Ordering::Relaxed) == thread;
        match entry.state.load(Ordering::Relaxed) {
            INSIDE if ours => Some((entry, Owner::Guest)),
            TOUCHING if ours => Some((entry, Owner::Touch)),
            _ => None,
        }
    });
    let Some((entry, owner)) = inside else {
        return Owner::Thread;
    };
    let state = match fault.evidence {
        Evidence::MemoryFailure => FAULTED,
        Evidence::AddressError => ADDRESS_ERROR,
    };
    entry.address.store(fault.address.get(), Ordering::Relaxed);
    entry.state.store(state, Ordering::Relaxed);
    owner
}
