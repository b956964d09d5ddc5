//! vCPUs that check and rewrite all of their memory.

use std::ops::Range;

use pagemend::{Cause, Gpa, Inject};
use pagemend_vmm::guests::memcycler::{self, Access, Work};
use pagemend_vmm::{End, Vm};

use crate::machine::{alone, config, huge};

const MEMORY: u64 = 64 << 20;
const PHASES: [Access; 5] = [
    Access::Both,
    Access::Reads,
    Access::Writes,
    Access::Reads,
    Access::Both,
];

/// Two vCPUs, each with its half.
fn halves() -> Vec<Vec<Range<u64>>> {
    let free = memcycler::FREE.get();
    let middle = free + (MEMORY - free) / 2;
    vec![
        vec![free..free + (8 << 20), free + (8 << 20)..middle],
        vec![middle..MEMORY],
    ]
}

fn cycled(vm: &Vm, ranges: &[Vec<Range<u64>>], step: u64) -> Vec<Vec<Work>> {
    // A few milliseconds each: some passes, and in the end a part of one.
    let ticks = u64::from(vm.tsc_khz()) * 12;
    memcycler::set(
        vm.ram(),
        ranges,
        step,
        &PHASES.map(|access| (access, ticks)),
    )
    .unwrap();
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    let work = memcycler::work(vm.ram(), 2, PHASES.len()).unwrap();
    for phase in work.iter().flatten() {
        assert!(phase.words > 0 && phase.ticks >= ticks, "{phase:?}");
    }
    work
}

#[test]
fn each_vcpu_finds_in_its_part_what_it_has_written_there() {
    let _alone = alone();
    for step in [8, 4096 + 64] {
        let vm = Vm::new(config(memcycler::code(), 2)).unwrap();
        memcycler::fill(vm.ram(), memcycler::FREE.get()..MEMORY).unwrap();
        for phase in cycled(&vm, &halves(), step).iter().flatten() {
            assert_eq!(phase.wrong, 0, "{phase:?}");
        }
    }
}

#[test]
fn a_word_that_changes_behind_its_back_is_noticed() {
    let _alone = alone();
    let vm = Vm::new(config(memcycler::code(), 2)).unwrap();
    memcycler::fill(vm.ram(), memcycler::FREE.get()..MEMORY).unwrap();
    vm.ram().write(memcycler::FREE, &[1]).unwrap();
    let work = cycled(&vm, &halves(), 8);
    assert_eq!(work[0][0].wrong, 1);
    assert_eq!(work[1][0].wrong, 0);
}

#[test]
fn what_was_saved_from_failed_pages_is_what_was_written_there() {
    let _alone = alone();
    let vm = Vm::new(huge(memcycler::code(), 2, 2)).unwrap();
    memcycler::fill(vm.ram(), memcycler::FREE.get()..MEMORY).unwrap();
    let lost = [8 << 20, 40 << 20].map(|page: u64| page + 0x5000);
    let errors = vm.pagemend().emulated_errors();
    for gpa in lost {
        errors.inject(Gpa::new(gpa), Cause::ActionOptional).unwrap();
    }
    assert_eq!(vm.pagemend().totals().mended, 2);
    let ranges = [lost[0], lost[1]].map(|lost| {
        let page = lost - 0x5000;
        vec![page..lost, lost + 4096..page + (2 << 20)]
    });
    for phase in cycled(&vm, &ranges, 8).iter().flatten() {
        assert_eq!(phase.wrong, 0, "{phase:?}");
    }
}
