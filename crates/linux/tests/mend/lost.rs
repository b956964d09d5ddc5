//! Touching a lost frame.

use std::sync::Barrier;
use std::thread;

use pagemend_core::address::{FRAME_SIZE, PageSize};
use pagemend_linux::MemoryKind;
use pagemend_linux::guard::GuardError;

use crate::child;
use crate::guest::{BASE, Guest, MIB, gpa, pattern};

const LOST: u64 = 2 * MIB + 0x3000;

#[test]
fn guarded_access_gives_an_error_that_names_the_byte() {
    let guest = Guest::huge(8 * MIB);
    guest.fail(LOST);
    let guarded = guest.pagemend.memory("ram").unwrap();
    let mut buffer = [0; 8192];
    let from = LOST - FRAME_SIZE;
    assert_eq!(
        guarded.read(gpa(from), &mut buffer).unwrap_err(),
        GuardError::Poisoned {
            gpa: gpa(LOST),
            done: 4096
        }
    );
    let word = u64::from_ne_bytes(buffer[..8].try_into().unwrap());
    assert_eq!(word, pattern(gpa(from)));
    assert_eq!(
        guarded.store(gpa(LOST + 8), 1u64).unwrap_err(),
        GuardError::Poisoned {
            gpa: gpa(LOST + 8),
            done: 0
        }
    );
}

#[test]
fn a_plain_load_ends_the_process_with_one_line_that_names_the_address() {
    let name = "lost::a_plain_load_ends_the_process_with_one_line_that_names_the_address";
    let said = child::dies(name, || {
        let guest = Guest::huge(8 * MIB);
        guest.fail(LOST);
        guest.load(LOST + 8);
    });
    check_line(said);
}

#[test]
fn a_process_without_any_handler_dies_with_the_same_one_line() {
    let name = "lost::a_process_without_any_handler_dies_with_the_same_one_line";
    let said = child::dies(name, || {
        // SAFETY: the default action needs no handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        let guest = Guest::huge(8 * MIB);
        guest.fail(LOST);
        guest.load(LOST + 8);
    });
    check_line(said);
}

fn check_line(said: Option<Vec<String>>) {
    let Some(said) = said else { return };
    assert_eq!(said.len(), 1, "{said:?}");
    let frame = format!("{:#x}", BASE + LOST);
    assert!(
        said[0].contains(&frame) && said[0].contains("lost"),
        "{said:?}"
    );
}

/// Lets `threads` threads loose on the first word of each of `frames` of one page.
fn all_at_once(threads: usize, frames: &[u64], lost: &[u64]) {
    let guest = Guest::new(MemoryKind::Hugetlb(PageSize::SIZE_2M), 8 * MIB);
    for frame in lost {
        guest.fail(*frame);
    }
    let start = Barrier::new(threads);
    let guarded = guest.pagemend.memory("ram").unwrap();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                start.wait();
                for frame in frames {
                    if lost.contains(frame) {
                        assert!(guarded.load::<u64>(gpa(*frame)).is_err());
                    } else {
                        assert_eq!(guest.load(*frame), pattern(gpa(*frame)));
                    }
                }
            });
        }
    });
    guest.check_all_but(lost);
    assert_eq!(guest.pagemend.totals().mended, 1);
}

#[test]
fn eight_threads_on_one_healthy_word_wait_for_one_mend() {
    all_at_once(8, &[LOST + FRAME_SIZE], &[LOST]);
}

#[test]
fn eight_threads_on_one_lost_word_get_eight_errors() {
    all_at_once(8, &[LOST], &[LOST]);
}

#[test]
fn one_thread_meets_several_errors_in_one_page() {
    let lost = [
        2 * MIB,
        2 * MIB + 0x5000,
        2 * MIB + 0x6000,
        4 * MIB - FRAME_SIZE,
    ];
    let around = [
        2 * MIB,
        2 * MIB + 0x5000,
        2 * MIB + 0x4000,
        2 * MIB + 0x7000,
    ];
    all_at_once(1, &around, &lost);
    all_at_once(8, &around, &lost);
}
