//! Every host call of a mend fails once, on every kind of memory and under every policy.

use pagemend_core::address::PageSize;
use pagemend_core::event::Step;
use pagemend_core::map::Backing;
use pagemend_core::plan::{Action, Reason};
use pagemend_core::policy::Policy;

use crate::model::ModelHost;
use crate::model::vm::{Ram, Vm};

/// A fresh machine whose last page took errors at the given frames.
fn struck(ram: &Ram, keep: bool, errors: &[u64]) -> Vm<ModelHost> {
    let mut vm = Vm::new(std::slice::from_ref(ram));
    if keep {
        vm.allow_keep();
    }
    vm.model_mut().pool.insert(PageSize::SIZE_2M, 600);
    let first = ram.page_size.frames() * (ram.pages - 1);
    for frame in errors {
        vm.strike(first + frame);
    }
    vm
}

/// Has call 0 fail, then call 1, and so on until none is left to fail, and returns how many there
/// were.
fn fail_each_call(ram: &Ram, keep: bool, errors: &[u64]) -> u64 {
    let touched = ram.page_size.frames() * (ram.pages - 1) + errors[0];
    for call in 0.. {
        let mut vm = struck(ram, keep, errors);
        let pool = vm.model().pool.clone();
        vm.model_mut().refuse = Some(call);
        vm.load(touched);
        let all_passed = vm.model().calls <= call;
        if !all_passed {
            assert_abandoned(&vm, call);
            assert_eq!(vm.model().pool, pool, "call {call} leaks huge pages");
        }
        vm.model_mut().refuse = None;
        vm.sweep();
        let complaints = vm.complaints();
        assert_eq!(complaints, "", "{ram:?}, keep {keep}, call {call} fails");
        if all_passed {
            return call;
        }
    }
    unreachable!("some run has fewer calls than there are numbers")
}

fn assert_abandoned(vm: &Vm<ModelHost>, call: u64) {
    let events = vm.events();
    let failed: Vec<&Reason> = events
        .iter()
        .filter_map(|event| match &event.step {
            Step::Fail { reason } => Some(reason),
            _ => None,
        })
        .collect();
    let [Reason::StepFailed { error, .. }] = failed[..] else {
        panic!("call {call}: one failure is expected, not {failed:?}");
    };
    assert_eq!(*error, format!("call {call} was refused: out of memory"));
    let last = &events.last().expect("there are events").step;
    let Step::Done {
        action, reasons, ..
    } = last
    else {
        panic!("the last event is {last:?}");
    };
    assert_eq!(*action, Some(Action::Abandon));
    assert_eq!(reasons.last(), Some(failed[0]));
}

/// Every kind of memory but 1 GiB, with the pages that there are of it.
fn memory() -> impl Iterator<Item = Ram> {
    let ram = |backing, page_size| Ram {
        backing,
        ..Ram::eager(page_size)
    };
    let huge = [
        PageSize::SIZE_2M,
        PageSize::from_bytes(32 << 20).expect("2^25"),
    ];
    let all = [PageSize::SIZE_4K, PageSize::SIZE_2M];
    let hugetlb = [Backing::Hugetlb, Backing::HugetlbPrivate]
        .into_iter()
        .flat_map(move |backing| huge.map(|size| ram(backing, size)));
    let others = [Backing::Shmem, Backing::Anonymous]
        .into_iter()
        .flat_map(move |backing| all.map(|size| ram(backing, size)));
    hugetlb.chain(others)
}

#[test]
fn whatever_call_fails_the_page_is_old_or_finished_and_the_loss_is_told() {
    for ram in memory() {
        for policy in Policy::ALL {
            for keep in [false, true] {
                let ram = Ram {
                    policy,
                    ..ram.clone()
                };
                let last = ram.page_size.frames() - 1;
                let calls = fail_each_call(&ram, keep, &[0, last / 2, last]);
                println!(
                    "{:?} {} {policy} keep={keep}: {calls} calls",
                    ram.backing, ram.page_size
                );
            }
        }
    }
}

#[test]
fn whatever_call_fails_a_gibibyte_page_is_old_or_finished() {
    let ram = Ram {
        pages: 1,
        ..Ram::eager(PageSize::SIZE_1G)
    };
    // claim, stage, three reads around the error, poison, swap.
    assert_eq!(fail_each_call(&ram, false, &[1000]), 7);
}
