//! A hundred errors under threads that check and write every word all the while.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use pagemend_core::address::{FRAME_SIZE, PageSize};
use pagemend_linux::MemoryKind;
use pagemend_linux::guard::GuestRegion;

use crate::guest::{Guest, MIB, gpa, pattern, range};
use crate::wait;

const LEN: u64 = 16 * MIB;
const THREADS: u64 = 4;
const ERRORS: u64 = 100;

/// Distinct frames all over the memory, as many in one page as chance has it.
fn unlucky_frames() -> Vec<u64> {
    let frames = LEN / FRAME_SIZE;
    // Odd, so it passes each frame once before it comes back.
    let step = (0x9e37_79b9 % frames) | 1;
    (0..ERRORS)
        .map(|n| (n * step % frames) * FRAME_SIZE)
        .collect()
}

/// Checks and writes every `THREADS`th word, pass after pass, until `stop`; then once more. Gives
/// the frames at which it got errors in that last pass, and the wrong values that it ever saw.
fn work(memory: &GuestRegion, thread: u64, stop: &AtomicBool) -> (BTreeSet<u64>, u64) {
    let mut wrong = 0;
    let mut pass = 0;
    loop {
        let last = stop.load(Ordering::Acquire);
        let mut lost = BTreeSet::new();
        for offset in (thread * 8..LEN).step_by(8 * THREADS as usize) {
            let here = gpa(offset);
            let expected = pattern(here).wrapping_add(pass);
            let wrote = match memory.load::<u64>(here) {
                Ok(word) => {
                    wrong += u64::from(word != expected);
                    memory.store(here, expected.wrapping_add(1))
                }
                Err(error) => Err(error),
            };
            if wrote.is_err() {
                lost.insert(offset - offset % FRAME_SIZE);
            }
        }
        if last {
            return (lost, wrong);
        }
        pass += 1;
    }
}

#[test]
fn a_hundred_errors_at_once_lose_a_hundred_frames_and_change_no_word() {
    let guest = Guest::huge(LEN);
    let memory = guest.pagemend.memory("ram").unwrap();
    let frames = unlucky_frames();
    let (before, during) = frames.split_at(50);
    for frame in before {
        guest.fail(*frame);
    }
    let stop = AtomicBool::new(false);
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (memory, stop) = (&memory, &stop);
                scope.spawn(move || work(memory, thread, stop))
            })
            .collect();
        for (n, frame) in during.iter().enumerate() {
            match n % 2 {
                0 => guest.fail(*frame),
                _ => guest.fail_untouched(*frame),
            }
        }
        stop.store(true, Ordering::Release);
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect()
    });
    let injected: BTreeSet<u64> = frames.iter().copied().collect();
    assert_eq!(injected.len(), ERRORS as usize);
    for (lost, wrong) in results {
        assert_eq!(wrong, 0);
        assert_eq!(lost, injected);
    }
    assert_eq!(guest.recorded(), injected.into_iter().collect::<Vec<_>>());
    let totals = guest.pagemend.totals();
    assert_eq!((totals.mended, totals.abandoned), (LEN / (2 * MIB), 0));
}

#[test]
fn more_threads_than_there_are_places_to_wait_in_are_all_answered() {
    let kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
    let limit = Duration::from_secs(60);
    let guest = Guest::with(kind, 4 * MIB, |builder| builder.lease_limit(limit));
    let lease = guest.pagemend.lease(range(0, FRAME_SIZE)).unwrap();
    guest.fail(0x3000);
    guest.fail(2 * MIB);
    thread::scope(|scope| {
        let crowd: Vec<_> = (0..300)
            .map(|n| {
                let (guest, word) = (&guest, n * 8 + FRAME_SIZE + n % 2 * 2 * MIB);
                let thread = wait::stuck(scope, move || guest.load(word));
                (thread, pattern(gpa(word)))
            })
            .collect();
        drop(lease);
        for (thread, expected) in crowd {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
    guest.check_all_but(&[0x3000, 2 * MIB]);
    assert_eq!(guest.pagemend.totals().mended, 2);
}
