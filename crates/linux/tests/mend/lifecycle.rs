//! Starting, stopping and starting again.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use pagemend_core::address::PageSize;
use pagemend_linux::{BuildError, MemoryKind, Pagemend, RegionConfig};

use crate::child;
use crate::guest::{Guest, MIB, gpa, pattern, range};
use crate::wait;

const LOST: u64 = 2 * MIB + 0x3000;
const PAGES: [u64; 3] = [2 * MIB, 4 * MIB, 6 * MIB];

#[test]
fn a_second_mender_in_one_process_is_refused() {
    let guest = Guest::huge(8 * MIB);
    let config = RegionConfig::of("more", gpa(1 << 32), Arc::clone(&guest.memory)).unwrap();
    let refused = Pagemend::builder().region(config).start().unwrap_err();
    assert!(matches!(refused, BuildError::AlreadyRunning));
    assert!(
        refused
            .to_string()
            .contains("running in this process already")
    );
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
}

#[test]
fn after_a_drop_the_next_mender_mends() {
    for _ in 0..5 {
        let guest = Guest::huge(8 * MIB);
        guest.fail(LOST);
        guest.check_all_but(&[LOST]);
    }
}

#[test]
fn a_mender_that_could_not_start_leaves_room_for_the_next() {
    {
        let _turn = crate::guest::turn();
        assert!(matches!(
            Pagemend::builder().start(),
            Err(BuildError::NoRegions)
        ));
    }
    let guest = Guest::huge(8 * MIB);
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
}

#[test]
fn stopping_while_threads_wait_answers_them_first() {
    let kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
    let limit = Duration::from_secs(60);
    let guest = Guest::with(kind, 8 * MIB, |builder| builder.lease_limit(limit));
    let lease = guest.pagemend.lease(range(2 * MIB, 4096)).unwrap();
    for page in PAGES {
        guest.fail(page + 0x3000);
    }
    let words = PAGES.map(|page| guest.memory.hva().get() + page);
    thread::scope(|scope| {
        // The first waits for the lease, the others for the first.
        let waiting = words.map(|word| {
            wait::stuck(scope, move || {
                // SAFETY: a word of guest memory, which this test keeps.
                unsafe { (word as *const u64).read_volatile() }
            })
        });
        let _memory = Arc::clone(&guest.memory);
        let stopper = wait::this_thread();
        scope.spawn(move || {
            wait::until_asleep(stopper);
            drop(lease);
        });
        drop(guest);
        for (thread, page) in waiting.into_iter().zip(PAGES) {
            assert_eq!(thread.join().unwrap(), pattern(gpa(page)));
        }
    });
}

#[test]
fn a_default_action_that_was_set_meanwhile_does_not_make_the_next_mender_deaf() {
    let name =
        "lifecycle::a_default_action_that_was_set_meanwhile_does_not_make_the_next_mender_deaf";
    child::passes(name, || {
        let guest = Guest::huge(2 * MIB);
        // SAFETY: the default action needs no handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        drop(guest);
        let guest = Guest::huge(8 * MIB);
        guest.fail(LOST);
        guest.check_all_but(&[LOST]);
    });
}
