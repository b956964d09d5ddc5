//! Real vCPUs in memory that fails: they go on with the right bytes, or are told which are lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use pagemend_core::address::{Gpa, Hva, PageSize};
use pagemend_linux::{MemoryKind, VcpuFault};

use crate::guest::{BASE, Guest, MIB, gpa, pattern};
use crate::machine::{Access, Machine};

const LOST: u64 = 2 * MIB + 0x3000;
const HEALTHY: u64 = 2 * MIB + 0x5128;

fn word(offset: u64) -> u32 {
    pattern(gpa(offset)) as u32
}

fn read(offset: u64, mended: u32) -> Access {
    Access {
        value: Ok(word(offset)),
        mended,
    }
}

#[test]
fn a_vcpu_that_reads_a_healthy_byte_of_a_poisoned_page_goes_on_with_what_was_written() {
    let guest = Guest::huge(8 * MIB);
    let mut machine = Machine::new(&guest);
    assert_eq!(machine.load(HEALTHY), read(HEALTHY, 0));
    guest.fail(LOST);
    assert_eq!(machine.load(HEALTHY), read(HEALTHY, 1));
    assert_eq!(
        machine.load(HEALTHY),
        read(HEALTHY, 0),
        "by itself from now on"
    );
    guest.check_all_but(&[LOST]);
}

#[test]
fn a_vcpu_that_writes_to_a_healthy_byte_of_a_poisoned_page_has_written_it() {
    let guest = Guest::huge(8 * MIB);
    let mut machine = Machine::new(&guest);
    guest.fail(LOST);
    let value = Ok(0x5ca1_ab1e);
    assert_eq!(machine.store(HEALTHY, 0x5ca1_ab1e).value, value);
    assert_eq!(machine.load(HEALTHY).value, value);
    assert_eq!(guest.load(HEALTHY) as u32, 0x5ca1_ab1e);
    guest.store(HEALTHY, pattern(gpa(HEALTHY)));
    guest.check_all_but(&[LOST]);
}

#[test]
fn a_vcpu_at_a_lost_frame_is_told_and_has_not_executed_its_instruction() {
    for kind in [
        MemoryKind::Hugetlb(PageSize::SIZE_2M),
        MemoryKind::Shmem,
        MemoryKind::Anonymous,
    ] {
        let guest = Guest::new(kind, 8 * MIB);
        let mut machine = Machine::new(&guest);
        guest.fail(LOST);
        let lost = Err(VcpuFault::Lost { gpa: gpa(LOST) });
        for _ in 0..2 {
            assert_eq!(machine.load(LOST + 8).value, lost);
            assert_eq!(machine.store(LOST + 16, 7).value, lost);
        }
        assert_eq!(machine.load(HEALTHY), read(HEALTHY, 0));
        guest.check_all_but(&[LOST]);
    }
}

#[test]
fn vcpus_go_on_while_pages_fail_one_after_another() {
    let guest = Guest::huge(16 * MIB);
    let lost: Vec<u64> = (0..8).map(|page| page * 2 * MIB + 0x3000).collect();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let vcpus = [0, 0x40].map(|start| {
            let (guest, lost, stop) = (&guest, &lost, &stop);
            scope.spawn(move || {
                let mut machine = Machine::new(guest);
                let mut told = 0;
                let mut last = false;
                while !last {
                    last = stop.load(Ordering::Acquire);
                    for frame in (0..guest.memory.len()).step_by(0x1000) {
                        let offset = frame + start;
                        match machine.load(offset).value {
                            Ok(value) => assert_eq!(value, word(offset), "at {offset:#x}"),
                            Err(VcpuFault::Lost { gpa }) => {
                                assert!(lost.contains(&(gpa.get() - BASE)));
                                told += 1;
                            }
                            Err(fault) => panic!("{fault:?}"),
                        }
                    }
                }
                told
            })
        });
        for frame in &lost {
            guest.fail(*frame);
            guest.pagemend.settle();
        }
        stop.store(true, Ordering::Release);
        for vcpu in vcpus {
            assert!(
                vcpu.join().unwrap() >= lost.len(),
                "the last pass meets all"
            );
        }
    });
    guest.check_all_but(&lost);
}

#[test]
fn an_exit_at_an_address_that_is_no_guest_memory_is_an_ordinary_one() {
    let guest = Guest::huge(4 * MIB);
    let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
    assert_eq!(vcpu.take_fault_at(Gpa::new(0xfee0_0000)), None);
    assert_eq!(vcpu.take_fault_at(gpa(4 * MIB)), None);
    assert_eq!(vcpu.take_fault_at(gpa(0)), Some(VcpuFault::Mended));
}

#[test]
fn an_exit_where_memory_ends_without_a_failure_is_not_ours() {
    let guest = Guest::new(MemoryKind::Shmem, 4 * MIB);
    rustix::fs::ftruncate(guest.memory.file().unwrap(), 2 * MIB).unwrap();
    let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
    let hva = Hva::new(guest.memory.hva().get() + 3 * MIB + 8);
    let fault = vcpu.take_fault_at(gpa(3 * MIB + 8));
    assert_eq!(fault, Some(VcpuFault::NotOurs { hva }));
}

#[test]
fn after_the_mender_has_gone_an_exit_in_guest_memory_is_nobodys() {
    let guest = Guest::huge(4 * MIB);
    let mut vcpu = guest.pagemend.vcpu_thread().unwrap();
    guest.fail(LOST);
    let hva = Hva::new(guest.memory.hva().get() + LOST);
    drop(guest);
    let fault = vcpu.take_fault_at(gpa(LOST));
    assert_eq!(fault, Some(VcpuFault::NotOurs { hva }));
}
