//! A 1 GiB page, and what takes its place: the largest pages that are to be had.

use std::sync::mpsc;

use pagemend_core::address::PageSize;
use pagemend_core::event::Step;
use pagemend_core::plan::{Action, Reason};
use pagemend_core::policy::Filling;
use pagemend_linux::{Builder, GuestMemory, MemoryKind};

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
    guest.pagemend.settle();
    let outcomes = guest.outcomes();
    assert_eq!(outcomes[0], (Action::Mend, vec![]));
    assert_eq!(guest.pagemend.totals().mended, 1);
}

/// The reasons why pages became smaller than fit.
fn smaller(guest: &Guest) -> Vec<Reason> {
    let swapped = |step| match step {
        Step::Swap { reasons, .. } | Step::Fill { reasons, .. } => Some(reasons),
        _ => None,
    };
    guest
        .steps()
        .into_iter()
        .filter_map(swapped)
        .flatten()
        .collect()
}

/// Bytes on small pages: the stretches with losses, and what the kernel had no huge pages for, which
/// is said.
fn expected_small(guest: &Guest) -> u64 {
    let bytes = smaller(guest).into_iter().map(|reason| match reason {
        Reason::SmallerPages { bytes, .. } => bytes,
        other => panic!("{other}"),
    });
    4 * MIB + bytes.sum::<u64>()
}

/// Filled as it is touched, and as one.
const FILLINGS: [Filling; 2] = [Filling::OnDemand, Filling::Eager];

fn guest(filling: Filling, configure: impl FnOnce(Builder) -> Builder) -> Guest {
    Guest::build(KIND, GIB, |region| region.filling(filling), configure).unwrap()
}

#[test]
fn with_enough_in_the_pool_only_the_lossy_stretches_have_small_pages() {
    for filling in FILLINGS {
        let guest = guest(filling, |builder| {
            need_pool(PageSize::SIZE_2M, 512);
            builder
        });
        mend(&guest);
        assert_eq!(check_page_sizes(&guest), [GIB - 4 * MIB, 0, 4 * MIB]);
        assert_eq!(smaller(&guest), []);
    }
}

#[test]
fn a_pool_that_runs_dry_in_mid_mend_is_made_up_for_by_transparent_huge_pages() {
    for filling in FILLINGS {
        let (taken, keeper) = mpsc::channel::<Vec<GuestMemory>>();
        let guest = guest(filling, |builder| {
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
        // At most: other processes take from the pool too.
        assert!((2 * MIB..=200 * MIB).contains(&pooled), "{pooled}");
        assert_eq!(pooled + transparent + small, GIB);
        assert_eq!(small, expected_small(&guest));
    }
}

#[test]
fn an_empty_pool_is_made_up_for_by_transparent_huge_pages() {
    for filling in FILLINGS {
        let guest = guest(filling, |builder| builder);
        let _taken = leave_in_pool(0);
        mend(&guest);
        let [_, transparent, small] = check_page_sizes(&guest);
        assert!(transparent > 0);
        assert_eq!(small, expected_small(&guest));
    }
}

#[test]
fn without_any_huge_pages_it_is_mended_in_small_ones_and_says_why() {
    let name = "gigantic::without_any_huge_pages_it_is_mended_in_small_ones_and_says_why";
    child::passes(name, || {
        // SAFETY: prctl with these numbers takes no pointers.
        let disabled = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
        assert_eq!(disabled, 0);
        for filling in FILLINGS {
            let guest = guest(filling, |builder| builder);
            let _taken = leave_in_pool(0);
            mend(&guest);
            // Other processes may give pages back to the pool meanwhile.
            let [pooled, transparent, small] = check_page_sizes(&guest);
            assert_eq!((transparent, pooled + small), (0, GIB));
            assert!(small > GIB / 2);
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
        }
    });
}
