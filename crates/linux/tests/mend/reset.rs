//! A guest's reset on real memory: all of it can be used again, and healthy bytes are as they were.

use std::fs;
use std::thread;

use pagemend_core::address::{FRAME_SIZE, GpaRange, PageSize};
use pagemend_core::event::Step;
use pagemend_core::plan::{Action, Reason};
use pagemend_core::policy::Policy;
use pagemend_linux::MemoryKind;
use pagemend_linux::probe::Pool;

use crate::guest::{GIB, Guest, MIB, frames, gpa, leave_in_pool, need_pool, pattern, range};
use crate::smaps::{check_page_sizes, mappings};

const KIND: MemoryKind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
const LOST: u64 = 2 * MIB + 0x3000;

/// All memory can be read and written, by plain loads and stores: `zeroed` frames read zero, the
/// others as they were.
fn check_all_usable(guest: &Guest, zeroed: &[u64]) {
    assert!(guest.recorded().is_empty());
    let step = if guest.memory.len() < GIB { 8 } else { 64 };
    for frame in frames(0, guest.memory.len()) {
        for offset in (frame..frame + FRAME_SIZE).step_by(step) {
            let expected = match zeroed.contains(&frame) {
                true => 0,
                false => pattern(gpa(offset)),
            };
            assert_eq!(guest.load(offset), expected, "at {offset:#x}");
            guest.store(offset, !expected);
            assert_eq!(guest.load(offset), !expected);
            guest.store(offset, pattern(gpa(offset)));
        }
    }
}

/// The pages that were renewed, with the reasons for smaller pages.
fn renewed(guest: &Guest) -> Vec<Vec<Reason>> {
    let renew = |step| match step {
        Step::Renew { reasons, .. } => Some(reasons),
        _ => None,
    };
    guest.steps().into_iter().filter_map(renew).collect()
}

#[test]
fn a_mended_page_is_a_huge_page_again_with_every_healthy_byte() {
    let guest = Guest::with_spare(KIND, 8 * MIB, 1);
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
    assert_eq!(check_page_sizes(&guest)[2], 2 * MIB, "4 KiB pages");
    let reset = guest.pagemend.reset().unwrap();
    assert_eq!((reset.lost, reset.failed), (vec![], vec![]));
    assert_eq!((reset.renewed_pages, reset.cleared_frames), (1, 1));
    assert_eq!(renewed(&guest), [vec![]]);
    assert_eq!(check_page_sizes(&guest), [8 * MIB, 0, 0]);
    check_all_usable(&guest, &[LOST]);
}

#[test]
fn an_error_after_a_reset_is_mended() {
    let guest = Guest::with_spare(KIND, 8 * MIB, 1);
    for round in 1..=3 {
        need_pool(PageSize::SIZE_2M, 1);
        guest.fail(LOST + 0x1000 * round);
        guest.check_all_but(&[LOST + 0x1000 * round]);
        guest.pagemend.reset().unwrap();
        check_all_usable(&guest, &[LOST + 0x1000 * round]);
    }
    assert_eq!(guest.pagemend.totals().mended, 3);
}

#[test]
fn memory_that_a_mend_had_put_in_is_given_back() {
    let guest = Guest::with_spare(KIND, 8 * MIB, 1);
    let shmem = || {
        let meminfo = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = meminfo.lines().find(|line| line.starts_with("Pss_Shmem:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap()
    };
    let mut after = vec![];
    for _ in 0..3 {
        need_pool(PageSize::SIZE_2M, 1);
        guest.fail(LOST);
        guest.check_all_but(&[LOST]);
        let mended = shmem();
        guest.pagemend.reset().unwrap();
        after.push(shmem());
        assert!(mended >= after[0] + 2040, "a mend stages in shared memory");
    }
    assert!(after[2] < after[0] + 1024, "{after:?} KiB");
}

#[test]
fn without_a_free_huge_page_smaller_ones_do_and_the_reason_is_given() {
    let guest = Guest::new(KIND, 8 * MIB);
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
    let taken = leave_in_pool(0);
    guest.pagemend.reset().unwrap();
    check_all_usable(&guest, &[LOST]);
    let [_, transparent, small] = check_page_sizes(&guest);
    assert_eq!(transparent + small, 2 * MIB);
    assert_eq!(renewed(&guest)[0].is_empty(), small == 0);
    drop(taken);
}

#[test]
fn pages_that_were_abandoned_are_usable_again() {
    for kind in [KIND, MemoryKind::HugetlbPrivate(PageSize::SIZE_2M)] {
        let guest = Guest::build(
            kind,
            8 * MIB,
            |region| {
                need_pool(PageSize::SIZE_2M, 1);
                region.policy(Policy::Abandon)
            },
            |builder| builder,
        )
        .unwrap();
        guest.fail(LOST);
        guest.check_all_but(&frames(2 * MIB, 2 * MIB));
        let reset = guest.pagemend.reset().unwrap();
        assert_eq!(reset.cleared_frames, 512);
        check_all_usable(&guest, &frames(2 * MIB, 2 * MIB));
        let page = guest.pagemend.segments()[1];
        assert_eq!(page.page_size, PageSize::SIZE_2M, "{page:?}");
    }
}

#[test]
fn frames_of_small_pages_are_renewed_where_they_are() {
    for kind in [
        MemoryKind::Shmem,
        MemoryKind::ShmemThp,
        MemoryKind::Anonymous,
        MemoryKind::AnonymousThp,
    ] {
        let guest = Guest::new(kind, 8 * MIB);
        let segments = guest.pagemend.segments();
        let start = guest.memory.hva().get();
        let vmas = || mappings(start, start + guest.memory.len()).len();
        let before = vmas();
        let lost = [LOST, LOST + 0x1000, 6 * MIB];
        for frame in lost {
            guest.fail(frame);
        }
        guest.check_all_but(&lost);
        let reset = guest.pagemend.reset().unwrap();
        assert_eq!((reset.renewed_pages, reset.cleared_frames), (3, 3));
        assert_eq!(renewed(&guest), [vec![], vec![], vec![]]);
        assert_eq!(guest.pagemend.segments(), segments);
        assert_eq!(vmas(), before, "marked frames are no mappings of their own");
        check_all_usable(&guest, &lost);
        guest.fail(LOST);
        guest.check_all_but(&[LOST]);
    }
}

#[test]
fn small_pages_that_are_locked_are_renewed_and_locked() {
    let guest = Guest::new(MemoryKind::Shmem, 4 * MIB);
    let start = guest.memory.as_ptr().cast::<libc::c_void>();
    // SAFETY: locking changes no byte.
    assert_eq!(unsafe { libc::mlock(start, 4 << 20) }, 0);
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
    let reset = guest.pagemend.reset().unwrap();
    assert_eq!(reset.failed, []);
    check_all_usable(&guest, &[LOST]);
}

#[test]
fn a_gibibyte_page_is_one_again_where_there_is_one() {
    let kind = MemoryKind::Hugetlb(PageSize::SIZE_1G);
    let lost = [2 * MIB + 0x3000, 700 * MIB];
    let guest = Guest::with(kind.clone(), GIB, |builder| {
        need_pool(PageSize::SIZE_2M, 512);
        builder
    });
    for frame in lost {
        guest.fail(frame);
    }
    guest.check_all_but(&lost);
    let spare = Pool::of(PageSize::SIZE_1G).unwrap().spare();
    let reset = guest.pagemend.reset().unwrap();
    assert_eq!(reset.failed, []);
    check_all_usable(&guest, &lost);
    let segments = guest.pagemend.segments();
    let gigantic = segments[0].page_size == PageSize::SIZE_1G;
    assert_eq!(gigantic, renewed(&guest) == [vec![]], "{segments:?}");
    assert!(gigantic || spare == 0);
}

#[test]
fn a_page_whose_devices_are_busy_stays_lost_until_the_next_reset() {
    let limit = std::time::Duration::from_millis(10);
    let guest = Guest::with(KIND, 8 * MIB, |builder| builder.lease_limit(limit));
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
    let lease = guest.pagemend.lease(range(2 * MIB, 4096)).unwrap();
    let reset = guest.pagemend.reset().unwrap();
    let page = range(2 * MIB, 2 * MIB);
    let [(failed, Reason::StepFailed { step, .. })] = &reset.failed[..] else {
        panic!("{reset:?}");
    };
    assert_eq!((*failed, step.as_str()), (page, "claim"));
    assert_eq!(reset.lost, [GpaRange::page(gpa(LOST), PageSize::SIZE_4K)]);
    drop(lease);
    guest.check_all_but(&[LOST]);
    assert_eq!(guest.pagemend.reset().unwrap().lost, []);
    check_all_usable(&guest, &[LOST]);
}

#[test]
fn faults_that_came_before_are_handled_before() {
    let guest = Guest::with_spare(KIND, 8 * MIB, 1);
    for _ in 0..8 {
        guest.fail(LOST);
        let value = thread::scope(|scope| {
            let toucher = scope.spawn(|| guest.load(LOST + 0x1000));
            toucher.join().unwrap()
        });
        assert_eq!(value, pattern(gpa(LOST + 0x1000)));
        guest.pagemend.reset().unwrap();
        check_all_usable(&guest, &[LOST]);
    }
}

#[test]
fn an_empty_ledger_is_reset_too_and_the_listeners_hear_of_it() {
    let guest = Guest::huge(4 * MIB);
    assert_eq!(guest.pagemend.reset().unwrap().renewed_pages, 0);
    let steps = guest.steps();
    let [
        Step::Reset {
            renewed_pages: 0,
            cleared_frames: 0,
            lost,
        },
    ] = &steps[..]
    else {
        panic!("{steps:?}");
    };
    assert_eq!(lost, &[]);
    assert_eq!(guest.outcomes(), [] as [(Action, Vec<Reason>); 0]);
}
