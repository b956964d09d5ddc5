//! Bad luck repeats: second errors, second reports and second touches, each with its outcome.

use pagemend_core::address::PageSize;
use pagemend_core::fault::Verdict;
use pagemend_core::map::Backing;
use pagemend_core::plan::Action;
use pagemend_core::policy::Policy;

use crate::claims::{machine, with_policy};
use crate::model::ModelHost;
use crate::model::others::{Happening, Touch};
use crate::model::vm::{Ram, Vm};

#[test]
fn a_second_fault_on_the_same_page_finds_it_mended() {
    let mut vm = machine();
    vm.strike(700);
    for frame in [701, 702, 700] {
        let gpa = vm.gpa(frame);
        vm.model_mut().touch(gpa, Touch::Store);
    }
    vm.settle();
    assert_eq!(vm.actions(), [Some(Action::Mend), None, None]);
    vm.assert_lost(&[700]);
}

#[test]
fn a_hundred_errors_in_one_page_are_mended_at_once() {
    let mut vm = machine();
    let struck: Vec<u64> = (0..100).map(|n| 512 + n * 5).collect();
    for frame in &struck {
        vm.strike(*frame);
    }
    assert_eq!(vm.load(514), Some(()));
    assert_eq!(vm.actions(), [Some(Action::Mend)]);
    vm.assert_lost(&struck);
}

#[test]
fn a_frame_told_lost_stays_lost() {
    let mut vm = machine();
    vm.strike(700);
    for _ in 0..3 {
        assert_eq!(vm.touch(700, Touch::Store), None);
    }
    assert_eq!(vm.records(), 1);
    assert_eq!(vm.mender.totals().repeated, 2);
    vm.assert_lost(&[700]);
}

#[test]
fn a_frame_told_lost_is_marked_in_a_mend_even_where_it_can_be_read_again() {
    let mut vm = with_policy(Policy::Keep);
    vm.allow_keep();
    vm.strike(700);
    assert_eq!(vm.load(700), None);
    // The page is no longer kept when it is hit again, and a write has repaired the first error.
    let place = vm.model().guest.cell(vm.gpa(700)).place;
    let model = vm.model_mut();
    model.capabilities.keep = false;
    model.physical.keep(place.object, false);
    model.physical.frame_mut(place).error = false;
    vm.strike(701);
    assert_eq!(vm.load(702), Some(()));
    assert_eq!(vm.actions(), [Some(Action::Keep), Some(Action::Mend)]);
    vm.assert_lost(&[700, 701]);
}

#[test]
fn an_error_in_mended_memory_loses_one_frame_more() {
    let mut vm = machine();
    vm.strike(700);
    vm.load(700);
    vm.strike(900);
    assert_eq!(vm.load(900), None);
    assert_eq!(vm.actions(), [Some(Action::Mend), Some(Action::Record)]);
    vm.assert_lost(&[700, 900]);
}

#[test]
fn ar_and_ao_for_the_same_error_are_recorded_once() {
    for ao_first in [true, false] {
        let mut vm = machine();
        vm.strike(700);
        let gpa = vm.gpa(700);
        if ao_first {
            assert_eq!(vm.scrub(700), Verdict::Lost { gpa });
        }
        assert_eq!(vm.load(700), None);
        assert_eq!(vm.scrub(700), Verdict::Lost { gpa });
        assert_eq!(vm.records(), 1);
        vm.assert_lost(&[700]);
    }
}

#[test]
fn failed_memory_that_the_kernel_left_mapped_faults_from_then_on() {
    for backing in [Backing::Shmem, Backing::Anonymous] {
        let mut vm = Vm::new(&[Ram {
            backing,
            pages: 1024,
            ..Ram::hugetlb(PageSize::SIZE_4K)
        }]);
        let gpa = vm.gpa(700);
        vm.strike_in_place(700);
        assert_eq!(vm.load(700), Some(()), "it can be touched");
        assert_eq!(vm.scrub(700), Verdict::Lost { gpa });
        assert_eq!(vm.load(700), None);
        assert_eq!(vm.mender.totals().recorded, 1);
        vm.assert_lost(&[700]);
    }
}

#[test]
fn nobody_writes_to_a_huge_page_that_the_kernel_left_mapped_while_it_is_mended() {
    // 0 claims, 1 isolates, 2 stages, 3 to 5 salvage, 6 poisons, 7 swaps.
    for call in 0..=7 {
        for frame in [513, 700, 1023] {
            let mut vm = machine();
            vm.strike_in_place(700);
            let store = Happening::Touch(vm.gpa(frame), Touch::Store);
            vm.model_mut().others.script.push((call, store));
            vm.scrub(700);
            vm.settle();
            assert_eq!(vm.actions().first(), Some(&Some(Action::Mend)));
            vm.load(frame);
            vm.assert_lost(&[700]);
        }
    }
}

#[test]
fn new_memory_that_failed_and_that_the_kernel_left_mapped_is_dealt_with_as_the_old_was() {
    // In a page of 2 MiB it is 4 KiB pages, in one of 1 GiB pages of 2 MiB.
    for (page_size, again, then) in [
        (PageSize::SIZE_2M, 900, Action::Record),
        (PageSize::SIZE_1G, 9000, Action::Mend),
    ] {
        let lost = 700;
        let mut vm = Vm::new(&[Ram::hugetlb(page_size)]);
        vm.model_mut().pool.insert(PageSize::SIZE_2M, 1000);
        vm.strike(lost);
        let gpa = vm.gpa(again);
        vm.load(again);
        vm.strike_in_place(again);
        assert_eq!(vm.load(again), Some(()), "it can be touched");
        assert_eq!(vm.scrub(again), Verdict::Lost { gpa });
        assert_eq!(vm.load(again), None);
        assert_eq!(vm.actions().into_iter().flatten().last(), Some(then));
        vm.assert_lost(&[lost, again]);
    }
}

#[test]
fn a_huge_page_that_the_kernel_left_mapped_cannot_be_touched_once_it_is_given_up() {
    let mut vm = Vm::new(&[Ram {
        policy: Policy::Abandon,
        ..Ram::hugetlb(PageSize::SIZE_2M)
    }]);
    vm.strike_in_place(100);
    assert_eq!(vm.load(101), Some(()), "it can be touched");
    vm.scrub(100);
    for frame in [0, 100, 511] {
        assert_eq!(vm.load(frame), None);
    }
}

#[test]
fn a_report_that_comes_after_the_mend_loses_nothing() {
    let mut vm = machine();
    vm.strike(700);
    vm.load(701);
    assert_eq!(vm.scrub(701), Verdict::Mended);
    assert_eq!(vm.mender.totals().stale, 1);
    vm.assert_lost(&[700]);
}

/// Calls of a mend after one error at frame 700: 0 claims, 1 stages, 2 salvages the frames before
/// it, 3 meets it, 4 salvages the rest, 5 poisons, 6 swaps.
fn mended_while(call: u64, happening: impl Fn(&Vm<ModelHost>) -> Happening) -> Vm<ModelHost> {
    let mut vm = machine();
    vm.strike(700);
    let happening = happening(&vm);
    vm.model_mut().others.script.push((call, happening));
    vm.load(701);
    vm
}

#[test]
fn a_second_error_ahead_of_the_salvage_loses_one_frame_more() {
    let mut vm = mended_while(3, |vm| Happening::Error(vm.gpa(800)));
    assert_eq!(vm.actions(), [Some(Action::Mend)]);
    vm.assert_lost(&[700, 800]);
}

#[test]
fn a_second_error_in_what_was_salvaged_already_loses_nothing() {
    for call in [3, 4, 5, 6] {
        let mut vm = mended_while(call, |vm| Happening::Error(vm.gpa(600)));
        vm.assert_lost(&[700]);
    }
}

#[test]
fn an_error_in_new_memory_that_is_not_filled_abandons_the_page() {
    let mut vm = mended_while(2, |_| Happening::StageError(0));
    assert_eq!(vm.failures(), ["salvage failed: the staged memory failed"]);
    let page: Vec<u64> = (512..1024).collect();
    vm.assert_lost(&page);
}

#[test]
fn an_error_in_new_memory_that_is_filled_is_a_fault_of_its_own() {
    let mut vm = mended_while(5, |_| Happening::StageError(88));
    assert_eq!(vm.load(600), None);
    assert_eq!(vm.actions(), [Some(Action::Mend), Some(Action::Record)]);
    vm.assert_lost(&[600, 700]);
}

#[test]
fn a_thread_that_touches_the_page_during_the_mend_waits_for_it() {
    for call in 0..7 {
        let mut vm = mended_while(call, |vm| Happening::Touch(vm.gpa(650), Touch::Store));
        assert_eq!(vm.actions(), [Some(Action::Mend), None]);
        vm.assert_lost(&[700]);
    }
}
