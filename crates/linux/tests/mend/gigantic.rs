//! A 1 GiB page, and what takes its place: the largest pages that are to be had.

use std::sync::mpsc;

use pagemend_core::address::PageSize;
use pagemend_core::event::Step;
use pagemend_core::plan::{Action, Reason};
use pagemend_linux::{GuestMemory, MemoryKind};

use crate::child;
use crate::guest::{GIB, Guest, MIB, leave_in_pool, need_pool};
use crate::smaps::check_page_sizes;

const KIND: MemoryKind = MemoryKind::Hugetlb(PageSize::SIZE_1G);
/// Two lost frames, in two stretches of 2 MiB.
const LOST: [u64; 2] = [2 * MIB + 0x3000, 700 * MIB];

fn mend(guest: &Guest) {
    for frame in LOST {
        guest.fail(frame);
    }
    guest.check_all_but(&LOST);
    let outcomes = guest.outcomes();
    assert_eq!(outcomes[0], (Action::Mend, vec![]));
    assert_eq!(guest.pagemend.totals().mended, 1);
}

/// The reasons why pages became smaller than fit.
fn smaller(guest: &Guest) -> Vec<Reason> {
    let swapped = |step| match step {
        Step::Swap { reasons, .. } => Some(reasons),
        _ => None,
    };
    guest.steps().into_iter().find_map(swapped).unwrap()
}

#[test]
fn with_enough_in_the_pool_only_the_lossy_stretches_have_small_pages() {
    let guest = Guest::with_spare(KIND, GIB, 512);
    mend(&guest);
    assert_eq!(check_page_sizes(&guest), [GIB - 4 * MIB, 0, 4 * MIB]);
    assert_eq!(smaller(&guest), []);
}

#[test]
fn a_pool_that_runs_dry_in_mid_mend_is_made_up_for_by_transparent_huge_pages() {
    let (taken, keeper) = mpsc::channel::<Vec<GuestMemory>>();
    let guest = Guest::with(KIND, GIB, |builder| {
        need_pool(PageSize::SIZE_2M, 101);
        builder.listen("competitor", move |event| {
            if matches!(event.step, Step::Claim) {
                taken.send(leave_in_pool(100)).unwrap();
            }
        })
    });
    mend(&guest);
    drop(keeper);
    let [pooled, transparent, small] = check_page_sizes(&guest);
    // At most: other processes take from the pool too. One of the hundred held a lost frame.
    assert!((2 * MIB..=198 * MIB).contains(&pooled), "{pooled}");
    assert_eq!((pooled + transparent, small), (GIB - 4 * MIB, 4 * MIB));
    assert_eq!(smaller(&guest), []);
}

#[test]
fn an_empty_pool_is_made_up_for_by_transparent_huge_pages() {
    let guest = Guest::new(KIND, GIB);
    let _taken = leave_in_pool(0);
    mend(&guest);
    assert_eq!(check_page_sizes(&guest), [0, GIB - 4 * MIB, 4 * MIB]);
}

#[test]
fn without_any_huge_pages_it_is_mended_in_small_ones_and_says_why() {
    let name = "gigantic::without_any_huge_pages_it_is_mended_in_small_ones_and_says_why";
    child::passes(name, || {
        // SAFETY: prctl with these numbers takes no pointers.
        let disabled = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
        assert_eq!(disabled, 0);
        let guest = Guest::new(KIND, GIB);
        let _taken = leave_in_pool(0);
        mend(&guest);
        assert_eq!(check_page_sizes(&guest), [0, 0, GIB]);
        let reasons = smaller(&guest);
        assert!(!reasons.is_empty());
        for reason in reasons {
            let Reason::SmallerPages {
                wanted, got, why, ..
            } = reason
            else {
                panic!("{reason}");
            };
            assert_eq!((wanted, got), (PageSize::SIZE_2M, PageSize::SIZE_4K));
            assert!(why.contains("no transparent huge page"), "{why}");
        }
    });
}
