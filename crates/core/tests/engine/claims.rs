//! What the engine promises in each hard case, one claim a test.

use pagemend_core::address::{FRAME_SIZE, Hva, PageSize};
use pagemend_core::event::Step;
use pagemend_core::fault::{Evidence, Fault, Verdict};
use pagemend_core::ledger::Cause;
use pagemend_core::map::Backing;
use pagemend_core::plan::{Action, Reason};
use pagemend_core::policy::{Consumer, Policy};

use crate::model::ModelHost;
use crate::model::vm::{Ram, Vm};

/// Two 2 MiB pages, frames 0 to 511 and 512 to 1023.
pub(crate) fn machine() -> Vm<ModelHost> {
    Vm::new(&[Ram::hugetlb(PageSize::SIZE_2M)])
}

pub(crate) fn with_policy(policy: Policy) -> Vm<ModelHost> {
    Vm::new(&[Ram {
        policy,
        ..Ram::hugetlb(PageSize::SIZE_2M)
    }])
}

/// Segments as (page size, bytes).
pub(crate) fn segments(vm: &Vm<ModelHost>) -> Vec<(PageSize, u64)> {
    let all = vm.mender.map().segments();
    all.map(|segment| (segment.page_size, segment.gpa.len()))
        .collect()
}

#[test]
fn an_error_costs_its_frame_and_nothing_else() {
    let mut vm = machine();
    vm.strike(700);
    assert_eq!(vm.load(700), None);
    vm.assert_lost(&[700]);
    assert_eq!(vm.mender.totals().recovered_bytes, 511 * FRAME_SIZE);
}

#[test]
fn the_steps_of_a_mend_are_told_in_the_order_in_which_they_happen() {
    let mut vm = machine();
    vm.strike(700);
    vm.load(700);
    let steps = vm.events().iter().map(|event| {
        let json = serde_json::to_value(event).unwrap();
        json["step"].as_str().unwrap().to_owned()
    });
    let steps: Vec<String> = steps.collect();
    let expected = "fault plan claim stage salvage poison swap record done";
    assert_eq!(steps.join(" "), expected);
    let times: Vec<_> = vm.events().iter().map(|event| event.time).collect();
    assert!(times.is_sorted());
}

#[test]
fn an_unreadable_page_is_abandoned() {
    let mut vm = machine();
    vm.model_mut().physical.lose_count(0);
    vm.strike(700);
    assert_eq!(vm.load(600), None);
    assert_eq!(vm.failures(), ["no frame of the page can be read"]);
    let page: Vec<u64> = (512..1024).collect();
    vm.assert_lost(&page);
}

#[test]
fn private_hugetlb_is_told_lost_whole() {
    for policy in [Policy::Mend, Policy::Keep, Policy::Abandon] {
        let mut vm = Vm::new(&[Ram {
            backing: Backing::HugetlbPrivate,
            policy,
            ..Ram::hugetlb(PageSize::SIZE_2M)
        }]);
        vm.allow_keep();
        vm.strike(700);
        assert_eq!(vm.load(600), None);
        assert_eq!(vm.records(), 1, "in one piece");
        let page: Vec<u64> = (512..1024).collect();
        vm.assert_lost(&page);
    }
}

#[test]
fn where_the_kernel_takes_only_the_frame_its_neighbours_are_not_touched() {
    for backing in [Backing::Shmem, Backing::Anonymous] {
        let mut vm = Vm::new(&[Ram {
            backing,
            ..Ram::hugetlb(PageSize::SIZE_2M)
        }]);
        vm.strike(700);
        assert_eq!(vm.load(700), None);
        assert_eq!(vm.model().calls, 0);
        vm.assert_lost(&[700]);
    }
}

#[test]
fn a_kept_page_loses_only_its_frame_and_is_not_swapped() {
    let mut vm = with_policy(Policy::Keep);
    vm.allow_keep();
    vm.strike(700);
    assert_eq!(vm.load(701), Some(()));
    assert_eq!(vm.load(700), None);
    assert_eq!(vm.actions(), [Some(Action::Keep)]);
    vm.assert_lost(&[700]);
}

#[test]
fn a_gibibyte_page_becomes_2_mib_stretches_and_one_of_4_kib() {
    let gib = Ram {
        pages: 1,
        ..Ram::eager(PageSize::SIZE_1G)
    };
    let mut vm = Vm::new(&[gib]);
    vm.model_mut().pool.insert(PageSize::SIZE_2M, 512);
    vm.strike(5 * 512 + 7);
    vm.load(0);
    let mib_2 = PageSize::SIZE_2M.bytes();
    let expected = [
        (PageSize::SIZE_2M, 5 * mib_2),
        (PageSize::SIZE_4K, mib_2),
        (PageSize::SIZE_2M, 506 * mib_2),
    ];
    assert_eq!(segments(&vm), expected);

    // One of the new 2 MiB pages fails too: it is mended out of the file that it came from.
    vm.strike(9 * 512 + 1);
    assert_eq!(vm.load(9 * 512), Some(()));
    assert_eq!(vm.actions(), [Some(Action::Mend); 2]);
    assert_eq!(segments(&vm).len(), 5);
    vm.assert_lost(&[5 * 512 + 7, 9 * 512 + 1]);
}

#[test]
fn an_exhausted_pool_gives_smaller_pages_and_says_how_many() {
    let size = PageSize::from_bytes(32 << 20).unwrap();
    let mib_2 = PageSize::SIZE_2M.bytes();
    for (thp, expected) in [(false, Some(6 * mib_2)), (true, None)] {
        let mut vm = Vm::new(&[Ram::eager(size)]);
        vm.model_mut().pool.insert(PageSize::SIZE_2M, 10);
        vm.model_mut().thp = thp;
        vm.strike(3);
        vm.load(3);
        let missing = vm.events().iter().find_map(|event| match &event.step {
            Step::Swap { reasons, .. } => Some(reasons.clone()),
            _ => None,
        });
        let missing = missing.unwrap().into_iter().map(|reason| match reason {
            Reason::SmallerPages { bytes, .. } => bytes,
            other => panic!("{other}"),
        });
        assert_eq!(missing.collect::<Vec<_>>(), Vec::from_iter(expected));
        vm.assert_lost(&[3]);
    }
}

#[test]
fn a_write_of_a_device_that_is_under_way_is_in_the_mended_page() {
    let mut vm = machine();
    let gpa = vm.gpa(600);
    vm.model_mut().lease(gpa, false);
    vm.strike(700);
    // The lease ends while the page is claimed, with a write that no page table stops.
    assert_eq!(vm.load(601), Some(()));
    assert!(vm.model().others.leases.is_empty());
    vm.assert_lost(&[700]);
}

#[test]
fn a_lease_that_does_not_end_abandons_the_page() {
    let mut vm = machine();
    let gpa = vm.gpa(600);
    vm.model_mut().lease(gpa, true);
    vm.strike(700);
    assert_eq!(vm.load(601), None);
    assert_eq!(vm.failures(), ["claim failed: a lease did not end"]);
    let page: Vec<u64> = (512..1024).collect();
    vm.assert_lost(&page);
}

#[test]
fn a_consumer_that_cannot_follow_leaves_the_page_as_it_is() {
    for policy in [Policy::Mend, Policy::Discard] {
        let mut vm = Vm::new(&[Ram {
            policy,
            consumers: vec![Consumer {
                name: "vfio".into(),
                follows: false,
            }],
            ..Ram::hugetlb(PageSize::SIZE_2M)
        }]);
        vm.strike(700);
        assert_eq!(vm.load(701), None);
        assert_eq!(vm.model().calls, 0);
        let page: Vec<u64> = (512..1024).collect();
        vm.assert_lost(&page);
    }
}

#[test]
fn discarded_memory_is_told_lost_before_anyone_can_read_a_zero() {
    let mut vm = with_policy(Policy::Discard);
    vm.strike(700);
    assert_eq!(vm.load(701), None);
    let step = |wanted: fn(&Step) -> bool| vm.events().iter().position(|e| wanted(&e.step));
    let record = step(|step| matches!(step, Step::Record { .. }));
    assert!(record < step(|step| matches!(step, Step::Swap { .. })));
    assert!(record.is_some());
    let model = vm.model();
    assert_eq!(model.guest.load(&model.physical, vm.gpa(701)), Some(0));
    assert_eq!(vm.lost_frames(), 512);

    // The guest was told once that all of it is gone, and that stays so.
    vm.strike(702);
    assert_eq!(vm.load(702), None);
    let page: Vec<u64> = (512..1024).collect();
    vm.assert_lost(&page);
}

#[test]
fn a_fault_outside_guest_memory_is_not_ours() {
    let mut vm = machine();
    let fault = Fault {
        address: Hva::new(0x1000),
        cause: Cause::ActionRequired,
        evidence: Evidence::MemoryFailure,
    };
    assert_eq!(vm.mender.handle(fault), Verdict::NotOurs);
    assert!(vm.events().is_empty());
    assert_eq!(vm.mender.totals().foreign, 1);
}

#[test]
fn an_address_error_without_a_memory_failure_is_not_ours() {
    for policy in Policy::ALL {
        let mut vm = with_policy(policy);
        vm.allow_keep();
        let gpa = vm.gpa(700);
        vm.model_mut().holes.insert(gpa);
        let fault = Fault {
            address: vm.model().guest.hva(gpa),
            cause: Cause::ActionRequired,
            evidence: Evidence::AddressError,
        };
        assert_eq!(vm.mender.handle(fault), Verdict::NotOurs, "{policy}");
        assert!(vm.events().is_empty());
        vm.assert_lost(&[]);
    }
}
