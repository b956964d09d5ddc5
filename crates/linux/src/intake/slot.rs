//! Where a thread that met a fault leaves it for the mender and waits for the answer.
//!
//! Plain atomics in a static, because the thread is in a signal handler: it may have interrupted
//! the allocator, or hold any lock of the program.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering, fence};

use pagemend_core::address::{Gpa, Hva};
use pagemend_core::fault::{Evidence, Fault, Verdict};
use pagemend_core::ledger::Cause;
use rustix::event::EventfdFlags;

use crate::futex;

/// How many faults can wait at once. Who comes when all are taken waits for one to become free.
const SLOTS: usize = 256;

// States of a slot, in the order in which it passes them.
const FREE: u32 = 0;
/// Its thread is writing the fault.
const CLAIMED: u32 = 1;
/// The mender may take it.
const POSTED: u32 = 2;
/// The mender has it.
const TAKEN: u32 = 3;
/// The answer is there, in three kinds; the slot's thread frees it.
const MENDED: u32 = 4;
const LOST: u32 = 5;
const NOT_OURS: u32 = 6;

struct Slot {
    state: AtomicU32,
    address: AtomicU64,
    /// Cause and evidence, and whether somebody waits: [`Flags`].
    flags: AtomicU32,
    /// The answer's frame, where it is lost.
    gpa: AtomicU64,
    /// Its place in the queue: the lowest has waited longest.
    ticket: AtomicU64,
}

/// Bits of [`Slot::flags`].
struct Flags;

impl Flags {
    const ACTION_REQUIRED: u32 = 1;
    const MEMORY_FAILURE: u32 = 2;
    const WAITED_FOR: u32 = 4;
    /// No fault at all: somebody waits until those before it are handled.
    const SETTLE: u32 = 8;
}

static TABLE: [Slot; SLOTS] = [const {
    Slot {
        state: AtomicU32::new(FREE),
        address: AtomicU64::new(0),
        flags: AtomicU32::new(0),
        gpa: AtomicU64::new(0),
        ticket: AtomicU64::new(0),
    }
}; SLOTS];
/// The next place in the queue. Slots are claimed from the first on, so without places a thread that
/// meets one fault after the other would be served before all who wait in later slots.
static TICKET: AtomicU64 = AtomicU64::new(0);
/// Counts slots that became free, for those who wait for one.
static FREED: AtomicU32 = AtomicU32::new(0);
/// The eventfd that the mender sleeps on, or -1 where there is no mender.
static DOORBELL: AtomicI32 = AtomicI32::new(-1);

/// The doorbell of every mender of this process. Never closed: a thread that posts while a mender
/// ends may ring a moment later, and must not write into a file that has got the number meanwhile.
pub(crate) fn doorbell() -> io::Result<&'static OwnedFd> {
    static ONE: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(doorbell) = ONE.get() {
        return Ok(doorbell);
    }
    let doorbell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    Ok(ONE.get_or_init(|| doorbell))
}

/// Faults posted from now on ring `doorbell`, until [`close`].
pub(crate) fn open(doorbell: &'static OwnedFd) {
    DOORBELL.store(doorbell.as_raw_fd(), Ordering::Relaxed);
    fence(Ordering::SeqCst);
    // For whoever posted when there was no bell and will find that there is one.
    ring(doorbell.as_raw_fd());
}

/// Waits until the mender has handled every fault that came before this: it drains its notices
/// before it looks at the slots.
pub(crate) fn settle() {
    let nowhere = Fault {
        address: Hva::new(0),
        cause: Cause::ActionRequired,
        evidence: Evidence::AddressError,
    };
    wait_for(post(&nowhere, Flags::WAITED_FOR | Flags::SETTLE));
}

/// There is no mender any more: answers everything that waits with *not ours*.
pub(crate) fn close() {
    DOORBELL.store(-1, Ordering::Relaxed);
    // Whoever posts sees this, or is seen by what follows.
    fence(Ordering::SeqCst);
    while let Some(taken) = take().or_else(take_settler) {
        taken.answer(Verdict::NotOurs);
    }
}

/// Leaves a fault and waits for its answer. Async-signal-safe.
pub(crate) fn ask(fault: &Fault) -> Verdict {
    wait_for(post(fault, Flags::WAITED_FOR))
}

fn wait_for(slot: Option<&Slot>) -> Verdict {
    let Some(slot) = slot else {
        return Verdict::NotOurs;
    };
    loop {
        let state = slot.state.load(Ordering::Acquire);
        let verdict = match state {
            MENDED => Verdict::Mended,
            LOST => Verdict::Lost {
                gpa: Gpa::new(slot.gpa.load(Ordering::Relaxed)),
            },
            NOT_OURS => Verdict::NotOurs,
            _ => {
                // A mender that ended meanwhile has looked at the table before this was posted.
                if DOORBELL.load(Ordering::Acquire) < 0 && retract(slot) {
                    return Verdict::NotOurs;
                }
                futex::wait(&slot.state, state, None);
                continue;
            }
        };
        free(slot);
        return verdict;
    }
}

/// Leaves a fault that nobody waits for, unless all slots are taken: it is found when it is touched
/// then, as what the kernel drops while such a signal is pending. For it may be the mender's own
/// thread that is told, in a listener, and nobody but that makes slots free. Async-signal-safe.
pub(crate) fn tell(fault: &Fault) {
    if DOORBELL.load(Ordering::Acquire) >= 0
        && let Some(slot) = claim_free()
    {
        leave(slot, fault, 0);
    }
}

fn post(fault: &Fault, flags: u32) -> Option<&'static Slot> {
    claim().inspect(|slot| leave(slot, fault, flags))
}

fn leave(slot: &Slot, fault: &Fault, flags: u32) {
    let required = fault.cause == Cause::ActionRequired;
    let certain = fault.evidence == Evidence::MemoryFailure;
    let flags = flags
        | if required { Flags::ACTION_REQUIRED } else { 0 }
        | if certain { Flags::MEMORY_FAILURE } else { 0 };
    slot.address.store(fault.address.get(), Ordering::Relaxed);
    slot.flags.store(flags, Ordering::Relaxed);
    slot.ticket
        .store(TICKET.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    slot.state.store(POSTED, Ordering::Release);
    // The other side of the fences in `open` and `close`.
    fence(Ordering::SeqCst);
    ring(DOORBELL.load(Ordering::Acquire));
}

/// A free slot, waited for if need be, or `None` where there is no mender.
fn claim() -> Option<&'static Slot> {
    loop {
        let freed = FREED.load(Ordering::Acquire);
        if DOORBELL.load(Ordering::Acquire) < 0 {
            return None;
        }
        let slot = claim_free();
        if slot.is_some() {
            return slot;
        }
        futex::wait(&FREED, freed, None);
    }
}

/// A free slot, if there is one.
fn claim_free() -> Option<&'static Slot> {
    TABLE.iter().find(|slot| {
        slot.state
            .compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    })
}

/// Takes back a fault that the mender has not taken.
fn retract(slot: &Slot) -> bool {
    let back = slot
        .state
        .compare_exchange(POSTED, CLAIMED, Ordering::AcqRel, Ordering::Relaxed);
    if back.is_ok() {
        free(slot);
    }
    back.is_ok()
}

fn free(slot: &Slot) {
    slot.state.store(FREE, Ordering::Release);
    FREED.fetch_add(1, Ordering::Release);
    futex::wake_all(&FREED);
}

fn ring(doorbell: i32) {
    let one = 1u64;
    // SAFETY: eight bytes of a local. Without a mender the number is -1, which is EBADF.
    unsafe { libc::write(doorbell, (&raw const one).cast(), 8) };
}

/// A fault that the mender has taken and owes an answer.
pub(crate) struct Taken {
    slot: &'static Slot,
}

/// The fault that has waited longest, if there is one.
pub(crate) fn take() -> Option<Taken> {
    take_with(0)
}

/// The next of those who wait until the faults before are handled. Slots are in no order: what came
/// before may only be seen now.
pub(crate) fn take_settler() -> Option<Taken> {
    take_with(Flags::SETTLE)
}

fn take_with(settle: u32) -> Option<Taken> {
    loop {
        let posted = TABLE.iter().filter(|slot| {
            slot.state.load(Ordering::Acquire) == POSTED
                && slot.flags.load(Ordering::Relaxed) & Flags::SETTLE == settle
        });
        let slot = posted.min_by_key(|slot| slot.ticket.load(Ordering::Relaxed))?;
        let taken =
            slot.state
                .compare_exchange(POSTED, TAKEN, Ordering::Acquire, Ordering::Relaxed);
        // Another one if this was taken back meanwhile.
        if taken.is_ok() {
            return Some(Taken { slot });
        }
    }
}

impl Taken {
    /// What it is about; of one who waits for those before, nothing.
    pub(crate) fn fault(&self) -> Fault {
        let flags = self.slot.flags.load(Ordering::Relaxed);
        Fault {
            address: Hva::new(self.slot.address.load(Ordering::Relaxed)),
            cause: match flags & Flags::ACTION_REQUIRED {
                0 => Cause::ActionOptional,
                _ => Cause::ActionRequired,
            },
            evidence: match flags & Flags::MEMORY_FAILURE {
                0 => Evidence::AddressError,
                _ => Evidence::MemoryFailure,
            },
        }
    }

    pub(crate) fn answer(self, verdict: Verdict) {
        self.leave(verdict);
        std::mem::forget(self);
    }

    fn leave(&self, verdict: Verdict) {
        let slot = self.slot;
        if slot.flags.load(Ordering::Relaxed) & Flags::WAITED_FOR == 0 {
            return free(slot);
        }
        let state = match verdict {
            Verdict::Mended => MENDED,
            Verdict::Lost { gpa } => {
                slot.gpa.store(gpa.get(), Ordering::Relaxed);
                LOST
            }
            Verdict::NotOurs => NOT_OURS,
        };
        slot.state.store(state, Ordering::Release);
        futex::wake_all(&slot.state);
    }
}

/// A mender that panics over a fault leaves nobody waiting for its answer.
impl Drop for Taken {
    fn drop(&mut self) {
        self.leave(Verdict::NotOurs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    /// There is one table.
    fn alone() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Posts a fault at `address` from a thread of its own, and returns when it waits.
    fn asks<'scope>(
        scope: &'scope std::thread::Scope<'scope, '_>,
        address: u64,
    ) -> std::thread::ScopedJoinHandle<'scope, Verdict> {
        let fault = Fault {
            address: Hva::new(address),
            cause: Cause::ActionRequired,
            evidence: Evidence::MemoryFailure,
        };
        let asks = scope.spawn(move || ask(&fault));
        let posted = |slot: &Slot| {
            slot.state.load(Ordering::Acquire) == POSTED
                && slot.address.load(Ordering::Relaxed) == address
        };
        while !TABLE.iter().any(posted) {
            std::thread::yield_now();
        }
        asks
    }

    #[test]
    fn who_comes_again_and_again_is_answered_after_those_who_wait() {
        let _alone = alone();
        open(doorbell().unwrap());
        std::thread::scope(|scope| {
            let first = asks(scope, 0x1000);
            let waits = asks(scope, 0x2000);
            let taken = take().unwrap();
            assert_eq!(taken.fault().address, Hva::new(0x1000));
            taken.answer(Verdict::Mended);
            first.join().unwrap();
            // Its slot is the first again.
            let again = asks(scope, 0x3000);
            let order = [(); 2].map(|()| {
                let taken = take().unwrap();
                let address = taken.fault().address;
                taken.answer(Verdict::Mended);
                address
            });
            assert_eq!(order, [Hva::new(0x2000), Hva::new(0x3000)]);
            waits.join().unwrap();
            again.join().unwrap();
        });
        close();
    }

    #[test]
    fn who_only_tells_waits_for_nobody_even_if_all_slots_are_taken() {
        let _alone = alone();
        open(doorbell().unwrap());
        let found = |number: usize| Fault {
            address: Hva::new(0x1000 * number as u64),
            cause: Cause::ActionOptional,
            evidence: Evidence::MemoryFailure,
        };
        // The last of them would wait for this very thread.
        for number in 1..=SLOTS + 1 {
            tell(&found(number));
        }
        let told: Vec<Fault> = std::iter::from_fn(take)
            .map(|taken| {
                let fault = taken.fault();
                taken.answer(Verdict::Mended);
                fault
            })
            .collect();
        assert_eq!(told, (1..=SLOTS).map(found).collect::<Vec<_>>());
        close();
    }

    #[test]
    fn a_fault_that_is_taken_and_not_answered_is_nobodys() {
        let _alone = alone();
        open(doorbell().unwrap());
        let fault = Fault {
            address: Hva::new(0x1000),
            cause: Cause::ActionRequired,
            evidence: Evidence::MemoryFailure,
        };
        let verdict = std::thread::scope(|scope| {
            let asks = scope.spawn(move || ask(&fault));
            let taken = loop {
                match take() {
                    Some(taken) => break taken,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(taken.fault(), fault);
            drop(taken);
            asks.join().unwrap()
        });
        close();
        assert_eq!(verdict, Verdict::NotOurs);
        assert_eq!(ask(&fault), Verdict::NotOurs, "there is no mender any more");
    }
}
