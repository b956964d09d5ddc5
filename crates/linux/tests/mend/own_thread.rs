//! Code of the VMM's that runs on the mender's own thread: listeners and pause hooks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use pagemend_core::address::PageSize;
use pagemend_core::event::Step;
use pagemend_core::plan::{Action, Reason};
use pagemend_linux::guard::{GuardError, GuestRegion};
use pagemend_linux::{MemoryKind, Pagemend};

use crate::child;
use crate::guest::{BASE, Guest, MIB, frames, gpa, range};

const KIND: MemoryKind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
const LOST: u64 = 2 * MIB + 0x3000;

/// A guest whose listener does `act` with its memory, once, when a plan is made: while the page is
/// still poisoned.
fn with_listener(act: impl Fn(&GuestRegion) + Send + 'static) -> Guest {
    let memory = Arc::new(Mutex::new(None::<GuestRegion>));
    let seen = Arc::clone(&memory);
    let guest = Guest::with(KIND, 8 * MIB, |builder| {
        builder.listen("reader", move |event| {
            if matches!(event.step, Step::Plan { .. }) {
                act(seen.lock().unwrap().as_ref().unwrap());
            }
        })
    });
    *memory.lock().unwrap() = guest.pagemend.memory("ram");
    guest
}

#[test]
fn a_listener_that_reads_the_poisoned_page_gets_an_error() {
    let (result, read) = mpsc::channel();
    let guest = with_listener(move |memory| {
        result.send(memory.load::<u64>(gpa(LOST + 0x1000))).unwrap();
    });
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
    let poisoned = GuardError::Poisoned {
        gpa: gpa(LOST + 0x1000),
        done: 0,
    };
    assert_eq!(read.recv().unwrap(), Err(poisoned));
}

#[test]
fn a_listener_that_loads_from_it_unguarded_ends_the_process_with_one_line() {
    let name = "own_thread::a_listener_that_loads_from_it_unguarded_ends_the_process_with_one_line";
    let said = child::dies(name, || {
        let guest = with_listener(|memory| {
            let start = memory.mapped_at().start().get() as *const u64;
            // SAFETY: a word of guest memory.
            unsafe { start.wrapping_byte_add(LOST as usize).read_volatile() };
        });
        guest.fail(LOST);
        guest.load(LOST + 0x1000);
    });
    let Some(said) = said else { return };
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("hook or listener"), "{said:?}");
}

#[test]
fn a_listener_that_panics_takes_nobody_with_it() {
    let guest = Guest::with(KIND, 8 * MIB, |builder| {
        builder.listen("clumsy", |event| {
            assert!(!matches!(event.step, Step::Plan { .. }), "on purpose");
        })
    });
    for frame in [LOST, 4 * MIB] {
        guest.fail(frame);
        guest.load(frame + 0x1000);
    }
    guest.check_all_but(&[LOST, 4 * MIB]);
}

#[test]
fn a_hook_that_refuses_makes_the_page_stay_poisoned_with_its_words() {
    let (resumed, calls) = mpsc::channel();
    let guest = Guest::with(KIND, 8 * MIB, |builder| {
        builder.pause_hooks(
            |page| match page.start() {
                start if start == gpa(2 * MIB) => Err("the disk is on fire".to_owned()),
                _ => Ok(()),
            },
            move |page| resumed.send(page.start().get() - BASE).unwrap(),
        )
    });
    guest.fail_untouched(LOST);
    guest.fail_untouched(4 * MIB);
    let mut lost = frames(2 * MIB, 2 * MIB);
    lost.push(4 * MIB);
    guest.check_all_but(&lost);
    let error = "the VMM did not pause: the disk is on fire".to_owned();
    let step = "claim".to_owned();
    let abandoned = (Action::Abandon, vec![Reason::StepFailed { step, error }]);
    assert_eq!(guest.outcomes(), [abandoned, (Action::Mend, vec![])]);
    assert_eq!(calls.try_iter().collect::<Vec<_>>(), [4 * MIB]);
}

#[test]
fn a_device_that_the_hook_stops_ends_its_lease() {
    let in_flight = Arc::new(Mutex::new(None));
    let device = Arc::clone(&in_flight);
    let (resumed, calls) = mpsc::channel();
    let guest = Guest::with(KIND, 8 * MIB, |builder| {
        builder.lease_limit(Duration::from_secs(600)).pause_hooks(
            move |_| {
                drop(device.lock().unwrap().take());
                Ok(())
            },
            move |_| resumed.send(()).unwrap(),
        )
    });
    let lease = guest.pagemend.lease(range(LOST, 4096)).unwrap();
    *in_flight.lock().unwrap() = Some(lease);
    guest.fail_untouched(LOST);
    guest.check_all_but(&[LOST]);
    assert_eq!(guest.outcomes(), [(Action::Mend, vec![])]);
    assert_eq!(calls.try_iter().count(), 1);
}

#[test]
fn devices_go_on_where_a_lease_does_not_end() {
    let (resumed, calls) = mpsc::channel();
    let guest = Guest::with(KIND, 8 * MIB, |builder| {
        builder
            .lease_limit(Duration::from_millis(1))
            .pause_hooks(|_| Ok(()), move |_| resumed.send(()).unwrap())
    });
    let lease = guest.pagemend.lease(range(LOST, 4096)).unwrap();
    guest.fail_untouched(LOST);
    guest.check_all_but(&frames(2 * MIB, 2 * MIB));
    assert_eq!(calls.try_iter().count(), 1);
    drop(lease);
}

#[test]
fn a_hook_that_panics_counts_as_one_that_refuses() {
    let guest = Guest::with(KIND, 8 * MIB, |builder| {
        builder.pause_hooks(|_| panic!("on purpose"), |_| ())
    });
    guest.fail_untouched(LOST);
    guest.check_all_but(&frames(2 * MIB, 2 * MIB));
    assert!(format!("{:?}", guest.outcomes()).contains("panicked"));
}

#[test]
fn a_listener_that_asks_the_mender_panics_rather_than_wait_for_itself() {
    let own = Arc::new(AtomicPtr::new(ptr::null_mut::<Pagemend>()));
    let (seen, (outcome, outcomes)) = (Arc::clone(&own), mpsc::channel());
    let mut guest = Guest::with(KIND, 8 * MIB, |builder| {
        builder.listen("curious", move |event| {
            if matches!(event.step, Step::Plan { .. }) {
                // SAFETY: set before the first fault, and the handle stays where it is.
                let pagemend = unsafe { &*seen.load(Ordering::Acquire) };
                let settled = catch_unwind(AssertUnwindSafe(|| pagemend.settle()));
                let asked = catch_unwind(AssertUnwindSafe(|| pagemend.totals()));
                let reset = catch_unwind(AssertUnwindSafe(|| pagemend.reset()));
                let refused = settled.is_err() && asked.is_err() && reset.is_err();
                outcome.send(refused).unwrap();
            }
        })
    });
    own.store(&raw mut guest.pagemend, Ordering::Release);
    guest.fail_untouched(LOST);
    assert!(outcomes.recv().unwrap());
    guest.check_all_but(&[LOST]);
}
