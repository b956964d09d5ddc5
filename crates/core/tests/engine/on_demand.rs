//! Mending on demand: nobody waits for more than what he has touched, and all of it comes back.

use pagemend_core::address::{Gpa, GpaRange, PageSize};
use pagemend_core::event::Step;
use pagemend_core::fault::Verdict;
use pagemend_core::plan::{Action, Reason};
use pagemend_core::policy::{Filling, Policy};

use crate::claims::segments;
use crate::model::ModelHost;
use crate::model::others::{Happening, Touch};
use crate::model::vm::{Ram, Vm};

/// Frames in a stretch.
const STRETCH: u64 = 512;
const MIB: u64 = 1 << 20;

/// Pages of four stretches.
fn ram(pages: u64) -> Ram {
    Ram {
        pages,
        ..Ram::hugetlb(PageSize::from_bytes(8 * MIB).expect("2^23"))
    }
}

/// One such page that has lost frame 700, which is in its second stretch.
fn struck() -> Vm<ModelHost> {
    let mut vm = Vm::new(&[ram(1)]);
    vm.model_mut().pool.insert(PageSize::SIZE_2M, 100);
    vm.strike(700);
    vm
}

/// The stretches that came back so far, by number, and whether somebody waited for them.
fn filled(vm: &Vm<ModelHost>) -> Vec<(u64, bool)> {
    let base = vm.gpa(0).get();
    let number = |gpa: Gpa| (gpa.get() - base) / (2 * MIB);
    let fills = vm.events().iter().filter_map(|event| match &event.step {
        Step::Fill { part, touched, .. } => {
            let stretches = part.pages(PageSize::SIZE_2M);
            Some(stretches.map(|one| (number(one.start()), *touched)))
        }
        _ => None,
    });
    fills.flatten().collect()
}

fn steps(vm: &Vm<ModelHost>) -> String {
    let steps = vm.events().iter().map(|event| {
        let json = serde_json::to_value(event).expect("events are JSON");
        json["step"].as_str().expect("it has a name").to_owned()
    });
    steps.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_fault_is_answered_when_its_own_stretch_is_there() {
    let mut vm = struck();
    assert_eq!(vm.scrub(STRETCH * 3), Verdict::Mended);
    assert_eq!(filled(&vm), [(3, true)]);
    assert_eq!(steps(&vm), "fault plan claim cover fill done");
    let progress: Vec<u64> = vm.mender.progress().map(|page| page.left_bytes).collect();
    assert_eq!(progress, [6 * MIB]);
    while vm.mender.step() {}
    assert!(steps(&vm).ends_with("fill record complete"));
    assert_eq!(vm.mender.totals().mended, 1);
    vm.assert_lost(&[700]);
}

#[test]
fn a_lost_frame_is_recorded_before_the_one_who_met_it_goes_on() {
    let mut vm = struck();
    let gpa = vm.gpa(700);
    assert_eq!(vm.scrub(700), Verdict::Lost { gpa });
    assert_eq!(steps(&vm), "fault plan claim cover fill record done");
    vm.settle();
    vm.assert_lost(&[700]);
}

#[test]
fn touched_stretches_come_before_those_that_nobody_waits_for() {
    let mut vm = struck();
    vm.scrub(0);
    vm.scrub(3 * STRETCH + 5);
    vm.scrub(3 * STRETCH + 9);
    assert_eq!(filled(&vm), [(0, true), (3, true)]);
    vm.settle();
    let in_background: Vec<u64> = (filled(&vm).into_iter())
        .filter_map(|(number, touched)| (!touched).then_some(number))
        .collect();
    assert_eq!(in_background, [1, 2]);
    vm.assert_lost(&[700]);
}

#[test]
fn pages_take_turns_in_the_background() {
    let mut vm = Vm::new(&[ram(3)]);
    for page in 0..3 {
        vm.strike(page * 4 * STRETCH + 1);
        vm.scrub(page * 4 * STRETCH);
    }
    for _ in 0..3 {
        vm.mender.step();
    }
    let mut pages: Vec<u64> = filled(&vm)[3..]
        .iter()
        .map(|(number, _)| number / 4)
        .collect();
    pages.dedup();
    assert_eq!(pages, [0, 1, 2], "one run of each");
    vm.settle();
    vm.assert_lost(&[1, 4 * STRETCH + 1, 8 * STRETCH + 1]);
}

#[test]
fn a_page_that_is_dear_to_read_gets_no_more_time_than_another() {
    let mut vm = Vm::new(&[ram(2)]);
    let dear = GpaRange::new(vm.gpa(0), 8 * MIB);
    vm.model_mut().dear = dear;
    for page in 0..2 {
        vm.strike(page * 4 * STRETCH + 1);
        vm.scrub(page * 4 * STRETCH);
    }
    vm.settle();
    let pages: Vec<u64> = filled(&vm)[2..]
        .iter()
        .map(|(number, _)| number / 4)
        .collect();
    assert_eq!(pages, [0, 1, 1, 1, 0, 0]);
    vm.assert_lost(&[1, 4 * STRETCH + 1]);
}

#[test]
fn what_comes_back_at_once_lies_in_one_half_of_a_gib() {
    let mut vm = Vm::new(&[Ram {
        pages: 1,
        ..Ram::hugetlb(PageSize::SIZE_1G)
    }]);
    vm.model_mut().pool.insert(PageSize::SIZE_2M, 600);
    vm.strike(700);
    // So that runs begin at uneven places.
    vm.scrub(5 * STRETCH);
    vm.settle();
    let parts: Vec<GpaRange> = vm
        .events()
        .iter()
        .filter_map(|event| match &event.step {
            Step::Fill { part, .. } => Some(*part),
            _ => None,
        })
        .collect();
    let middle = Gpa::new(vm.gpa(0).get() + 512 * MIB);
    let across = |part: &GpaRange| part.contains(middle) && part.start() != middle;
    assert!(!parts.iter().any(across), "{parts:?}");
    assert!(
        parts.iter().any(|part| part.len() > 2 * MIB),
        "all of it came one by one"
    );
    vm.assert_lost(&[700]);
}

#[test]
fn the_page_is_claimed_until_it_is_complete() {
    let mut vm = struck();
    vm.scrub(0);
    let gpa = vm.gpa(0);
    vm.model_mut().lease(gpa, false);
    assert!(vm.model().others.leases.is_empty(), "it has to wait");
    vm.settle();
    vm.model_mut().lease(gpa, false);
    assert_eq!(vm.model().others.leases.len(), 1);
    vm.assert_lost(&[700]);
}

#[test]
fn a_lease_that_does_not_end_abandons_the_page_before_anything_is_covered() {
    let mut vm = Vm::new(&[ram(1)]);
    let gpa = vm.gpa(1);
    vm.model_mut().lease(gpa, true);
    vm.strike(700);
    assert_eq!(vm.load(0), None);
    assert_eq!(vm.actions(), [Some(Action::Abandon)]);
    assert_eq!(filled(&vm), []);
}

#[test]
fn eager_filling_and_pages_of_one_stretch_are_mended_as_one() {
    let eager = Ram {
        filling: Filling::Eager,
        ..ram(1)
    };
    for ram in [eager, Ram::hugetlb(PageSize::SIZE_2M)] {
        let mut vm = Vm::new(&[ram]);
        vm.strike(1);
        vm.load(0);
        assert_eq!(filled(&vm), []);
        assert_eq!(vm.actions(), [Some(Action::Mend)]);
        vm.assert_lost(&[1]);
    }
}

#[test]
fn a_page_that_cannot_be_covered_is_mended_as_one_and_says_why() {
    let mut vm = struck();
    vm.model_mut().refuse = Some(1);
    assert_eq!(vm.load(0), Some(()));
    assert_eq!(filled(&vm), []);
    let Some(Step::Done {
        action: Some(Action::Mend),
        reasons,
        ..
    }) = vm.events().last().map(|event| &event.step)
    else {
        panic!("{}", steps(&vm));
    };
    assert!(matches!(&reasons[..], [Reason::StepFailed { step, .. }] if step == "cover"));
    vm.assert_lost(&[700]);
}

#[test]
fn a_second_error_in_what_is_missing_loses_one_frame_more() {
    let mut vm = struck();
    vm.scrub(0);
    vm.strike(3 * STRETCH);
    vm.settle();
    vm.assert_lost(&[700, 3 * STRETCH]);
}

#[test]
fn a_second_error_in_what_is_back_is_mended_by_itself_while_the_rest_is_filled() {
    let mut vm = struck();
    vm.scrub(0);
    vm.strike(5);
    let gpa = vm.gpa(5);
    assert_eq!(vm.scrub(5), Verdict::Lost { gpa });
    assert_eq!(vm.actions(), [Some(Action::Mend), Some(Action::Mend)]);
    let gpa = vm.gpa(9);
    vm.model_mut().lease(gpa, false);
    assert!(
        vm.model().others.leases.is_empty(),
        "the page is still claimed"
    );
    vm.settle();
    vm.assert_lost(&[5, 700]);
}

#[test]
fn a_stretch_of_which_nothing_can_be_read_is_lost_and_the_others_come_back() {
    let mut vm = struck();
    for frame in STRETCH..2 * STRETCH {
        vm.strike(frame);
    }
    vm.scrub(0);
    vm.settle();
    assert!(
        vm.failures()
            .iter()
            .all(|why| why == "no frame of the page can be read")
    );
    let stretch: Vec<u64> = (STRETCH..2 * STRETCH).collect();
    vm.assert_lost(&stretch);
    let four: Vec<_> = segments(&vm).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(four.iter().sum::<u64>(), 8 * MIB);
}

#[test]
fn a_page_of_which_nothing_can_be_read_counts_as_abandoned() {
    let mut vm = struck();
    let object = vm.model().guest.cell(vm.gpa(0)).place.object;
    vm.model_mut().physical.lose_count(object);
    vm.scrub(0);
    vm.settle();
    let totals = vm.mender.totals();
    assert_eq!((totals.mended, totals.abandoned), (0, 1));
    let page: Vec<u64> = (0..4 * STRETCH).collect();
    vm.assert_lost(&page);
}

#[test]
fn a_run_that_fails_is_tried_again_in_pieces_and_loses_nothing() {
    let mut vm = Vm::new(&[Ram {
        pages: 1,
        ..Ram::hugetlb(PageSize::from_bytes(32 * MIB).expect("2^25"))
    }]);
    vm.strike(700);
    vm.scrub(0);
    // Until a run has more than one stretch.
    while filled(&vm).len() < 3 {
        vm.mender.step();
    }
    vm.model_mut().refuse = Some(vm.model().calls);
    vm.settle();
    assert_eq!(vm.failures(), [] as [String; 0]);
    vm.assert_lost(&[700]);
}

#[test]
fn whatever_is_cancelled_goes_on_faulting_and_nobody_is_kept_waiting() {
    let mut vm = struck();
    vm.scrub(0);
    vm.mender.cancel();
    assert!(steps(&vm).ends_with("cancel"));
    assert!(!vm.mender.step(), "nothing is left to do");
    let gpa = vm.gpa(0);
    vm.model_mut().lease(gpa, false);
    assert_eq!(vm.model().others.leases.len(), 1);
    let readable = |vm: &Vm<ModelHost>, frame| {
        let model = vm.model();
        model.guest.load(&model.physical, vm.gpa(frame)).is_some()
    };
    assert!(readable(&vm, 5) && !readable(&vm, STRETCH) && !readable(&vm, 4 * STRETCH - 1));
    assert_eq!(vm.complaints(), "");
}

#[test]
fn a_reset_completes_what_has_begun() {
    let mut vm = struck();
    vm.scrub(0);
    let reset = vm.reset();
    assert_eq!((reset.renewed_pages, reset.cleared_frames), (1, 1));
    assert_eq!(vm.mender.progress().next(), None);
    vm.assert_lost(&[]);
}

#[test]
fn threads_that_touch_the_page_at_any_point_of_the_stream_read_what_was_written() {
    // Claim, cover, and four stretches of stage, salvage, poison and swap; the lossy one reads thrice.
    for call in 0..20 {
        for frame in [1, 699, 700, 701, 3 * STRETCH] {
            for touch in [Touch::Load, Touch::Store] {
                let mut vm = struck();
                let gpa = vm.gpa(frame);
                vm.model_mut()
                    .others
                    .script
                    .push((call, Happening::Touch(gpa, touch)));
                vm.scrub(2 * STRETCH);
                vm.settle();
                vm.assert_lost(&[700]);
            }
        }
    }
}

#[test]
fn errors_at_any_point_of_the_stream_lose_their_frame_at_most() {
    for call in 0..20 {
        for frame in [1, 699, 3 * STRETCH] {
            let mut vm = struck();
            let gpa = vm.gpa(frame);
            vm.model_mut()
                .others
                .script
                .push((call, Happening::Error(gpa)));
            vm.scrub(2 * STRETCH);
            vm.settle();
            vm.sweep();
            assert_eq!(vm.complaints(), "", "call {call}, frame {frame}");
            let lost = vm.lost_frames();
            assert!((1..=2).contains(&lost), "{lost} at call {call}");
        }
    }
}

#[test]
fn whatever_call_fails_a_stretch_is_old_or_finished_and_its_loss_is_told() {
    for policy in [Policy::Mend, Policy::Keep] {
        let ram = Ram { policy, ..ram(1) };
        for call in 0.. {
            let mut vm = Vm::new(std::slice::from_ref(&ram));
            vm.model_mut().pool.insert(PageSize::SIZE_2M, 100);
            vm.strike(700);
            vm.model_mut().refuse = Some(call);
            vm.load(1);
            let all_passed = vm.model().calls <= call;
            vm.model_mut().refuse = None;
            vm.sweep();
            assert_eq!(vm.complaints(), "", "{policy}, call {call} fails");
            let lost = vm.lost_frames();
            // Only a claim that fails costs the whole page.
            let stretch = [1, STRETCH, STRETCH + 1].contains(&lost);
            assert!(
                stretch || (call == 0 && lost == 4 * STRETCH),
                "{lost} at {call}"
            );
            if all_passed {
                assert_eq!(lost, 1);
                assert!(call > 12, "four stretches take more than {call} calls");
                break;
            }
        }
    }
}
