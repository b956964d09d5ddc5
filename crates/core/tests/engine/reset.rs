//! A reset gives the guest back all of its memory, and what it cannot give back stays lost.

use pagemend_core::address::{FRAME_SIZE, GpaRange, PageSize};
use pagemend_core::event::Step;
use pagemend_core::map::Backing;
use pagemend_core::plan::{Action, Reason};
use pagemend_core::policy::{Consumer, Policy};

use crate::claims::{machine, segments, with_policy};
use crate::model::ModelHost;
use crate::model::guest::Truth;
use crate::model::others::Touch;
use crate::model::vm::{Ram, Vm};

/// Two 2 MiB pages, the second of which has lost frame 700.
fn mended() -> Vm<ModelHost> {
    let mut vm = machine();
    vm.strike(700);
    vm.load(700);
    vm
}

fn small_pages(backing: Backing) -> Vm<ModelHost> {
    let mut vm = Vm::new(&[Ram {
        backing,
        pages: 1024,
        ..Ram::hugetlb(PageSize::SIZE_4K)
    }]);
    vm.strike(700);
    vm.load(700);
    vm
}

/// All memory can be used, nothing is lost, and exactly these frames read zero.
#[track_caller]
fn assert_zeroed(vm: &mut Vm<ModelHost>, frames: &[u64]) {
    vm.assert_lost(&[]);
    let zero: Vec<u64> = (0..vm.model().guest.frames())
        .filter(|frame| vm.model().guest.cell(vm.gpa(*frame)).truth == Truth::Word(0))
        .collect();
    assert_eq!(zero, frames);
    for frame in 0..vm.model().guest.frames() {
        assert_eq!(vm.touch(frame, Touch::Store), Some(()), "frame {frame}");
    }
    vm.assert_lost(&[]);
}

#[test]
fn a_lost_frame_becomes_zero_and_every_healthy_byte_stays() {
    let mut vm = mended();
    let reset = vm.reset();
    assert_eq!((reset.renewed_pages, reset.cleared_frames), (1, 1));
    assert_eq!((reset.lost, reset.failed), (vec![], vec![]));
    assert_zeroed(&mut vm, &[700]);
}

#[test]
fn memory_that_was_abandoned_whole_can_be_used_again() {
    for backing in [Backing::Hugetlb, Backing::HugetlbPrivate] {
        let mut vm = Vm::new(&[Ram {
            backing,
            policy: Policy::Abandon,
            ..Ram::hugetlb(PageSize::SIZE_2M)
        }]);
        vm.strike(700);
        vm.load(600);
        assert_eq!(vm.reset().cleared_frames, 512);
        let page: Vec<u64> = (512..1024).collect();
        assert_zeroed(&mut vm, &page);
    }
}

#[test]
fn memory_of_4_kib_pages_is_renewed_where_it_is() {
    for backing in [Backing::Shmem, Backing::Anonymous] {
        let mut vm = small_pages(backing);
        let before = segments(&vm);
        vm.reset();
        assert_eq!(segments(&vm), before);
        assert_zeroed(&mut vm, &[700]);
    }
}

#[test]
fn memory_that_cannot_be_renewed_where_it_is_is_swapped_and_says_why() {
    let mut vm = small_pages(Backing::Shmem);
    // The claim is the call before.
    vm.model_mut().refuse = Some(vm.model().calls + 1);
    assert_eq!(vm.reset().failed, []);
    let Some(Step::Renew { reasons, .. }) = vm.events().iter().rev().nth(1).map(|e| &e.step) else {
        panic!("{:?}", vm.events().last());
    };
    assert!(matches!(&reasons[..], [Reason::StepFailed { step, .. }] if step == "renew"));
    assert_eq!(segments(&vm).len(), 3);
    assert_zeroed(&mut vm, &[700]);
}

#[test]
fn pages_get_the_configured_size_again_or_a_reason_why_not() {
    let mib_2 = PageSize::SIZE_2M;
    for (free, expected) in [(1, mib_2), (0, PageSize::SIZE_4K)] {
        let mut vm = mended();
        vm.model_mut().pool.insert(mib_2, free);
        vm.reset();
        assert_eq!(segments(&vm)[1], (expected, mib_2.bytes()));
        let smaller = vm.events().iter().any(|event| match &event.step {
            Step::Renew { reasons, .. } => !reasons.is_empty(),
            _ => false,
        });
        assert_eq!(smaller, free == 0);
        assert_zeroed(&mut vm, &[700]);
    }
}

#[test]
fn a_later_reset_tries_again_for_pages_of_the_configured_size() {
    let mut vm = mended();
    vm.reset();
    vm.model_mut().pool.insert(PageSize::SIZE_2M, 1);
    let reset = vm.reset();
    assert_eq!((reset.renewed_pages, reset.cleared_frames), (1, 0));
    assert!(
        segments(&vm)
            .iter()
            .all(|(size, _)| *size == PageSize::SIZE_2M)
    );
    assert_eq!(vm.reset().renewed_pages, 0, "nothing is left to do");
    assert_zeroed(&mut vm, &[700]);
}

#[test]
fn a_gibibyte_page_is_one_again() {
    let gib = PageSize::SIZE_1G;
    let mut vm = Vm::new(&[Ram {
        pages: 1,
        ..Ram::eager(gib)
    }]);
    vm.model_mut().pool.insert(PageSize::SIZE_2M, 512);
    vm.model_mut().pool.insert(gib, 1);
    for frame in [3000, 9 * 512 + 1] {
        vm.strike(frame);
        vm.load(frame);
    }
    assert_eq!(vm.reset().renewed_pages, 1);
    assert_eq!(segments(&vm), [(gib, gib.bytes())]);
    vm.assert_lost(&[]);
}

#[test]
fn what_is_kept_mapped_by_the_kernel_is_renewed_too() {
    let mut vm = with_policy(Policy::Keep);
    vm.allow_keep();
    vm.strike(700);
    vm.load(700);
    vm.reset();
    assert_zeroed(&mut vm, &[700]);
}

#[test]
fn an_error_that_nobody_had_met_is_found_at_the_reset() {
    let mut vm = mended();
    vm.strike(710);
    vm.reset();
    assert_zeroed(&mut vm, &[700, 710]);
}

#[test]
fn an_error_after_the_reset_is_mended_as_the_first_was() {
    let mut vm = mended();
    vm.model_mut().pool.insert(PageSize::SIZE_2M, 1);
    vm.reset();
    vm.strike(710);
    assert_eq!(vm.load(711), Some(()));
    assert_eq!(vm.actions(), [Some(Action::Mend); 2]);
    vm.assert_lost(&[710]);
}

#[test]
fn a_page_under_a_consumer_that_cannot_follow_stays_lost() {
    let mut vm = Vm::new(&[Ram {
        consumers: vec![Consumer {
            name: "vfio".into(),
            follows: false,
        }],
        ..Ram::hugetlb(PageSize::SIZE_2M)
    }]);
    vm.strike(700);
    vm.load(700);
    let before = vm.mender.ledger().generation();
    let reset = vm.reset();
    let page = GpaRange::new(vm.gpa(512), 512 * FRAME_SIZE).unwrap();
    let name = "vfio".into();
    assert_eq!(
        reset.failed,
        [(page, Reason::ConsumerCannotFollow { name })]
    );
    assert_eq!((reset.cleared_frames, reset.lost), (0, vec![page]));
    assert!(
        vm.mender.ledger().since(before).is_none(),
        "whoever follows the ledger starts anew"
    );
    assert_eq!(vm.mender.ledger().told(page.start()), ["guest"]);
    let page: Vec<u64> = (512..1024).collect();
    vm.assert_lost(&page);
}

#[test]
fn a_healthy_guest_is_told_that_it_was_reset_and_nothing_changes() {
    let mut vm = machine();
    let before = vm.mender.ledger().generation();
    assert_eq!(vm.reset().renewed_pages, 0);
    assert_eq!(vm.model().calls, 0);
    assert_eq!(vm.mender.ledger().generation(), before);
    let [event] = vm.events() else {
        panic!("{:?}", vm.events());
    };
    let whole = GpaRange::new(vm.gpa(0), 4 << 20).unwrap();
    assert_eq!((event.fault, event.page), (0, whole));
    assert!(matches!(event.step, Step::Reset { .. }));
}

/// A machine with a page that lost three frames, of each kind of memory.
fn damaged(ram: &Ram) -> Vm<ModelHost> {
    let mut vm = Vm::new(std::slice::from_ref(ram));
    vm.model_mut().pool.insert(PageSize::SIZE_2M, 40);
    for frame in [0, 5, ram.page_size.frames() * ram.pages - 1] {
        vm.strike(frame);
        vm.load(frame);
    }
    vm
}

#[test]
fn whatever_call_of_a_reset_fails_each_page_is_renewed_or_as_it_was() {
    let large = PageSize::from_bytes(32 << 20).unwrap();
    let kinds = [
        (Backing::Hugetlb, PageSize::SIZE_2M),
        (Backing::Hugetlb, large),
        (Backing::HugetlbPrivate, PageSize::SIZE_2M),
        (Backing::Shmem, PageSize::SIZE_4K),
        (Backing::Anonymous, PageSize::SIZE_4K),
    ];
    for (backing, page_size) in kinds {
        for policy in Policy::ALL {
            let ram = Ram {
                backing,
                policy,
                pages: if page_size.is_huge() { 2 } else { 64 },
                ..Ram::eager(page_size)
            };
            for call in 0.. {
                let mut vm = damaged(&ram);
                let lost = vm.lost_frames();
                let before = vm.model().calls;
                vm.model_mut().refuse = Some(before + call);
                let reset = vm.reset();
                let all_passed = vm.model().calls <= before + call;
                vm.model_mut().refuse = None;
                assert_eq!(reset.cleared_frames + vm.lost_frames(), lost);
                assert!(reset.failed.len() <= 1, "one call fails at most one page");
                vm.sweep();
                assert_eq!(vm.complaints(), "", "{ram:?}, call {call} fails");
                // The next one succeeds.
                let reset = vm.reset();
                assert_eq!((reset.lost, reset.failed), (vec![], vec![]));
                vm.assert_lost(&[]);
                if all_passed {
                    break;
                }
            }
        }
    }
}
