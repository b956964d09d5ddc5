//! A heal gives back the huge page and nothing else: no byte that was written is lost, and no lost
//! frame can be read before that was told.

use std::time::Duration;

use pagemend_core::address::{GpaRange, PageSize};
use pagemend_core::event::Step;
use pagemend_core::fault::Verdict;
use pagemend_core::host::Host;
use pagemend_core::ledger::Enforcement;
use pagemend_core::map::Backing;
use pagemend_core::plan::Reason;
use pagemend_core::policy::{Filling, Heal, Policy};

use crate::claims::segments;
use crate::model::ModelHost;
use crate::model::guest::{FILLED, Truth};
use crate::model::others::Touch;
use crate::model::vm::{Ram, Vm};

const MIB_2: PageSize = PageSize::SIZE_2M;

/// Longer than anything takes on the model's clock, which goes on by a nanosecond with each look.
const QUIET: Duration = Duration::from_nanos(1000);

/// Two 2 MiB pages, the second of which has lost frames 700 and 900.
fn mended(heal: Heal) -> Vm<ModelHost> {
    let mut vm = Vm::new(&[Ram {
        heal,
        ..Ram::hugetlb(MIB_2)
    }]);
    vm.strike(700);
    vm.strike(900);
    vm.load(700);
    vm
}

fn on_ack() -> Vm<ModelHost> {
    mended(Heal::OnAck { after: QUIET })
}

fn frame(vm: &Vm<ModelHost>, frame: u64) -> GpaRange {
    GpaRange::page(vm.gpa(frame), PageSize::SIZE_4K)
}

fn enforcement(vm: &Vm<ModelHost>, frame: u64) -> Option<Enforcement> {
    vm.mender.ledger().enforcement(vm.gpa(frame))
}

/// The steps of heals, by name, in order.
fn steps(vm: &Vm<ModelHost>) -> Vec<&'static str> {
    let steps = vm.events().iter().filter(|event| event.fault == 0);
    let name = |step: &Step| match step {
        Step::Entrust { .. } => "entrust",
        Step::TakeBack { .. } => "take-back",
        Step::Heal { .. } => "heal",
        Step::Fail { .. } => "fail",
        _ => "another",
    };
    steps.map(|event| name(&event.step)).collect()
}

fn wait(vm: &Vm<ModelHost>) {
    vm.model().pass(QUIET);
}

#[test]
fn a_healed_stretch_is_one_huge_page_with_every_byte_and_the_fill_where_it_was_lost() {
    let mut vm = mended(Heal::Never);
    vm.touch(701, Touch::Store);
    let healed = vm.heal();
    let stretch = GpaRange::new(vm.gpa(512), MIB_2.bytes()).unwrap();
    assert_eq!(healed.healed, [stretch]);
    assert_eq!(healed.entrusted, [frame(&vm, 700), frame(&vm, 900)]);
    assert_eq!(segments(&vm), [(MIB_2, MIB_2.bytes()); 2]);
    assert_eq!(steps(&vm), ["entrust", "heal"]);
    for lost in [700, 900] {
        assert_eq!(enforcement(&vm, lost), Some(Enforcement::Guest));
        let (model, gpa) = (vm.model(), vm.gpa(lost));
        assert_eq!(model.guest.load(&model.physical, gpa), Some(FILLED));
    }
    assert_eq!(vm.heal(), Default::default(), "nothing is left to heal");
    vm.assert_lost(&[700, 900]);
}

#[test]
fn nothing_is_healed_unless_it_is_asked_for() {
    let mut vm = mended(Heal::Never);
    vm.acknowledge(700);
    vm.acknowledge(900);
    wait(&vm);
    assert_eq!(vm.mender.next_heal(), None);
    assert!(!vm.heal_due());
    assert_eq!(enforcement(&vm, 700), Some(Enforcement::Host));
}

#[test]
fn a_stretch_is_healed_when_the_guest_knows_all_of_it_and_has_kept_off() {
    let mut vm = on_ack();
    vm.acknowledge(700);
    wait(&vm);
    assert_eq!(vm.mender.next_heal(), None, "frame 900 is not acknowledged");
    vm.acknowledge(900);
    assert!(vm.mender.next_heal().is_some() && !vm.heal_due());
    wait(&vm);
    assert!(vm.heal_due() && !vm.heal_due());
    assert_eq!(segments(&vm)[1].0, MIB_2);
    vm.assert_lost(&[700, 900]);
}

#[test]
fn a_touch_of_a_lost_frame_puts_the_heal_off() {
    let mut vm = on_ack();
    vm.acknowledge(700);
    vm.acknowledge(900);
    wait(&vm);
    assert_eq!(vm.load(900), None);
    assert!(!vm.heal_due());
    wait(&vm);
    assert!(vm.heal_due());
}

#[test]
fn what_is_lost_before_the_heal_has_to_be_acknowledged_too() {
    let mut vm = on_ack();
    vm.acknowledge(700);
    vm.acknowledge(900);
    vm.strike(710);
    assert_eq!(vm.load(710), None);
    wait(&vm);
    assert!(!vm.heal_due());
    vm.acknowledge(710);
    wait(&vm);
    assert!(vm.heal_due());
    vm.assert_lost(&[700, 710, 900]);
}

#[test]
fn an_acknowledgement_of_what_is_not_lost_means_nothing() {
    let mut vm = on_ack();
    vm.acknowledge(3);
    vm.acknowledge(701);
    assert_eq!(vm.mender.next_heal(), None);
}

#[test]
fn a_page_is_healed_right_after_its_mend_where_the_policy_says_now() {
    let mut vm = mended(Heal::Now);
    assert!(vm.mender.next_heal().is_some());
    assert!(vm.heal_due() && !vm.heal_due());
    assert_eq!(segments(&vm)[1].0, MIB_2);
    vm.assert_lost(&[700, 900]);
}

#[test]
fn each_stretch_of_a_large_page_is_healed_by_itself_when_all_of_it_is_back() {
    let large = PageSize::from_bytes(8 << 20).unwrap();
    for filling in [Filling::OnDemand, Filling::Eager] {
        let mut vm = Vm::new(&[Ram {
            heal: Heal::Now,
            filling,
            ..Ram::hugetlb(large)
        }]);
        vm.model_mut().thp = true;
        vm.strike(10);
        vm.strike(3 * 512 + 10);
        let gpa = vm.gpa(10);
        vm.model_mut().touch(gpa, Touch::Load);
        while vm.mender.progress().next().is_some() {
            assert!(!vm.heal_due(), "not before the page is complete");
            vm.step();
        }
        vm.settle();
        vm.step();
        vm.settle();
        assert!(vm.heal_due() && vm.heal_due() && !vm.heal_due());
        let small = segments(&vm).into_iter().any(|(size, _)| !size.is_huge());
        assert!(!small, "{:?}", segments(&vm));
        vm.assert_lost(&[10, 3 * 512 + 10]);
    }
}

#[test]
fn a_touch_that_was_earlier_than_the_heal_is_one_of_a_lost_frame() {
    let mut vm = mended(Heal::Now);
    let gpa = vm.gpa(700);
    vm.model_mut().touch(gpa, Touch::Load);
    assert!(vm.heal_due());
    let waiter = vm.model_mut().others.queue.pop_front().unwrap();
    assert_eq!(vm.mender.handle(waiter.fault), Verdict::Lost { gpa });
    assert_eq!(enforcement(&vm, 700), Some(Enforcement::Guest));
}

#[test]
fn a_healed_frame_that_fails_again_faults_again_and_can_be_healed_again() {
    let mut vm = mended(Heal::Never);
    vm.heal();
    vm.strike(700);
    assert_eq!(vm.load(700), None);
    assert_eq!(enforcement(&vm, 700), Some(Enforcement::Host));
    assert_eq!(enforcement(&vm, 900), Some(Enforcement::Guest));
    let healed = vm.heal();
    assert_eq!(healed.entrusted, [frame(&vm, 700)]);
    vm.assert_lost(&[700, 900]);
}

#[test]
fn an_error_in_a_healed_stretch_costs_one_frame() {
    let mut vm = mended(Heal::Now);
    while vm.heal_due() {}
    vm.strike(710);
    assert_eq!(vm.load(710), None);
    assert_eq!(vm.load(711), Some(()));
    assert_eq!(enforcement(&vm, 710), Some(Enforcement::Host));
    assert!(vm.heal_due());
    assert_eq!(enforcement(&vm, 710), Some(Enforcement::Guest));
    vm.assert_lost(&[700, 710, 900]);
}

#[test]
fn memory_under_io_is_not_healed_and_says_why() {
    let mut vm = mended(Heal::Never);
    let gpa = vm.gpa(600);
    vm.model_mut().lease(gpa, false);
    let failed = vm.heal().failed;
    let Reason::StepFailed { step, error } = &failed[0].reason else {
        panic!("{failed:?}");
    };
    assert_eq!((&step[..], &error[..]), ("heal", "a lease did not end"));
    assert_eq!(steps(&vm), ["fail"]);
    let lease = vm.model_mut().others.leases.pop().unwrap();
    vm.model_mut().write_leased(&lease);
    assert_eq!(vm.heal().failed, []);
    vm.assert_lost(&[700, 900]);
}

#[test]
fn what_cannot_be_healed_is_tried_again_later_and_later_and_then_left_alone() {
    let mut vm = mended(Heal::Now);
    let gpa = vm.gpa(600);
    vm.model_mut().lease(gpa, false);
    let mut tries = 0;
    while let Some(due) = vm.mender.next_heal() {
        let after = due.nanos().saturating_sub(vm.model().now().nanos());
        let expected = match tries {
            0 => 0,
            tries => 100_000_000 << (tries - 1),
        };
        assert!(
            expected - after < 100,
            "try {tries} is due after {after} ns"
        );
        vm.model().pass(Duration::from_nanos(after));
        assert!(vm.heal_due() && !vm.heal_due());
        tries += 1;
    }
    assert_eq!(steps(&vm), ["fail"; 10]);
    let lease = vm.model_mut().others.leases.pop().unwrap();
    vm.model_mut().write_leased(&lease);
    assert_eq!(
        vm.heal().healed.len(),
        1,
        "on request it is tried all the same"
    );
    vm.assert_lost(&[700, 900]);
}

#[test]
fn an_error_that_nobody_has_met_keeps_a_stretch_from_being_healed() {
    let mut vm = mended(Heal::Never);
    vm.strike(710);
    assert_eq!(vm.heal().failed.len(), 1);
    assert_eq!(vm.load(710), None);
    assert_eq!(vm.heal().failed, []);
    vm.assert_lost(&[700, 710, 900]);
}

#[test]
fn only_what_a_mend_has_put_there_is_healed() {
    let kinds = [
        (Backing::Shmem, MIB_2, Policy::Mend),
        (Backing::Anonymous, MIB_2, Policy::Mend),
        (Backing::Shmem, PageSize::SIZE_4K, Policy::Mend),
        (Backing::Hugetlb, MIB_2, Policy::Abandon),
        (Backing::Hugetlb, MIB_2, Policy::Discard),
    ];
    for (backing, page_size, policy) in kinds {
        let mut vm = Vm::new(&[Ram {
            backing,
            page_size,
            policy,
            heal: Heal::Now,
            pages: (4 << 20) / page_size.bytes(),
            ..Ram::hugetlb(MIB_2)
        }]);
        vm.strike(700);
        vm.load(700);
        assert!(!vm.heal_due());
        assert_eq!(vm.heal(), Default::default(), "{backing:?} {policy}");
        assert_eq!(enforcement(&vm, 700), Some(Enforcement::Host));
        vm.sweep();
        assert_eq!(vm.complaints(), "");
    }
}

#[test]
fn whatever_call_of_a_heal_fails_the_marks_are_there_as_before() {
    // The making of the huge page, and the swap.
    for (call, expected) in [(0, &["fail"][..]), (1, &["entrust", "take-back", "fail"])] {
        let mut vm = mended(Heal::Never);
        vm.model_mut().refuse = Some(vm.model().calls + call);
        let healed = vm.heal();
        assert_eq!((healed.healed, healed.failed.len()), (vec![], 1));
        assert_eq!(steps(&vm), expected);
        assert_eq!(enforcement(&vm, 700), Some(Enforcement::Host));
        assert_eq!(vm.load(700), None, "it faults as before");
        assert_eq!(vm.complaints(), "");
        vm.model_mut().refuse = None;
        assert_eq!(vm.heal().healed.len(), 1);
        vm.assert_lost(&[700, 900]);
    }
}

#[test]
fn a_reset_clears_what_was_healed() {
    let mut vm = mended(Heal::Never);
    vm.heal();
    vm.touch(900, Touch::Store);
    let reset = vm.reset();
    assert_eq!((reset.renewed_pages, reset.cleared_frames), (1, 2));
    for lost in [700, 900] {
        assert_eq!(enforcement(&vm, lost), None);
        let gpa = vm.gpa(lost);
        assert_eq!(vm.model().guest.cell(gpa).truth, Truth::Word(0));
    }
    vm.assert_lost(&[]);
}

#[test]
fn what_was_healed_stays_so_where_a_reset_cannot_renew_it() {
    let mut vm = mended(Heal::Never);
    vm.heal();
    // The claim is the first call.
    vm.model_mut().refuse = Some(vm.model().calls);
    assert_eq!(vm.reset().failed.len(), 1);
    vm.model_mut().refuse = None;
    assert_eq!(enforcement(&vm, 700), Some(Enforcement::Guest));
    vm.assert_lost(&[700, 900]);
}

#[test]
fn a_reset_ends_the_wait_for_a_heal() {
    let mut vm = on_ack();
    vm.acknowledge(700);
    vm.acknowledge(900);
    vm.reset();
    wait(&vm);
    assert!(!vm.heal_due());
}
