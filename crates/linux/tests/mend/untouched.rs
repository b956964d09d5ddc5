//! Errors that a scrubber found before anybody touched them.

use std::mem::MaybeUninit;
use std::sync::mpsc;
use std::thread;

use pagemend_core::address::{FRAME_SIZE, PageSize};
use pagemend_core::event::Step;
use pagemend_core::ledger::Cause;
use pagemend_linux::MemoryKind;

use crate::guest::{Guest, MIB, gpa};
use crate::vcpu::signal_self;
use crate::wait;

const LOST: u64 = 2 * MIB + 0x3000;

fn causes(guest: &Guest) -> Vec<Cause> {
    guest.pagemend.with_ledger(|ledger| {
        let entry = |gpa| ledger.entry(gpa).map(|entry| entry.loss.cause);
        ledger.iter().filter_map(entry).collect()
    })
}

#[test]
fn the_page_is_mended_without_any_touch() {
    let guest = Guest::huge(8 * MIB);
    guest.fail_untouched(LOST);
    assert_eq!(guest.pagemend.totals().mended, 1);
    assert!(guest.pagemend.is_lost(gpa(LOST)));
    assert_eq!(causes(&guest), [Cause::ActionOptional]);
    guest.check_all_but(&[LOST]);
    assert_eq!(guest.outcomes().len(), 1, "nobody met a fault afterwards");
}

#[test]
fn a_frame_that_is_found_and_touched_is_recorded_once() {
    let guest = Guest::huge(8 * MIB);
    guest.fail(LOST);
    guest.fail_untouched(LOST);
    guest.check_all_but(&[LOST]);
    let records = guest.steps().into_iter();
    let records = records.filter(|step| matches!(step, Step::Record { .. }));
    assert_eq!(records.count(), 1);
}

#[test]
fn several_are_found_at_once() {
    let guest = Guest::huge(8 * MIB);
    let lost: Vec<u64> = (0..8).map(|n| n * MIB + 0x3000).collect();
    std::thread::scope(|scope| {
        for frame in &lost {
            scope.spawn(|| guest.fail_untouched(*frame));
        }
    });
    assert_eq!(guest.pagemend.totals().mended, 4);
    guest.check_all_but(&lost);
}

#[test]
fn who_waits_at_a_fault_comes_before_errors_that_nobody_has_touched() {
    let (met, meets) = mpsc::channel();
    let (go_on, told) = mpsc::channel::<u64>();
    let mut first = true;
    let guest = Guest::with(MemoryKind::Hugetlb(PageSize::SIZE_2M), 6 * MIB, |builder| {
        builder.listen("holds the mender up", move |event| {
            if matches!(event.step, Step::Done { .. }) && std::mem::take(&mut first) {
                met.send(()).unwrap();
                let untouched = told.recv().unwrap();
                // Blocked, and in the last event of the fault, after which no foreign code runs that lets
                // it through: it is still there when the mender looks for such signals.
                block_sigbus();
                signal_self(libc::BUS_MCEERR_AO, untouched);
            }
        })
    });
    let [held, untouched, touched] = [0, 2 * MIB, 4 * MIB].map(|page| page + 0x3000);
    for frame in [held, untouched, touched] {
        guest.fail(frame);
    }
    thread::scope(|scope| {
        scope.spawn(|| guest.load(held + FRAME_SIZE));
        meets.recv().unwrap();
        let waits = wait::stuck(scope, || guest.load(touched + FRAME_SIZE));
        go_on.send(guest.word(untouched) as u64).unwrap();
        waits.join().unwrap();
    });
    guest.pagemend.settle();
    let steps = guest.steps().into_iter();
    let met: Vec<_> = steps
        .filter_map(|step| match step {
            Step::Fault { gpa, .. } => Some(gpa.get() & !(2 * MIB - 1)),
            _ => None,
        })
        .collect();
    assert_eq!(
        met,
        [held, touched, untouched].map(|frame| gpa(frame - 0x3000).get())
    );
    guest.check_all_but(&[held, untouched, touched]);
}

fn block_sigbus() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is made empty before anything is added or read.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGBUS);
        libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
    }
}
