//! Heals under a guest that says by its machine-check registers what it knows.

use std::thread;
use std::time::{Duration, Instant};

use pagemend::{Cause, Enforcement, FILL, Gpa, Heal, Inject, PageSize};
use pagemend_vmm::guests::touch;
use pagemend_vmm::{End, MemoryConfig, Vm, VmConfig};

use crate::machine::{alone, huge};

const ERRORS: u64 = 4;
/// Longer than anything takes here, and not forever.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn what_a_guest_has_touched_and_acknowledged_is_huge_pages_again() {
    let _alone = alone();
    let config = huge(touch::code(), 2, ERRORS);
    let vm = Vm::new(VmConfig {
        memory: MemoryConfig {
            heal: Heal::OnAck {
                after: Duration::ZERO,
            },
            ..config.memory
        },
        ..config
    })
    .unwrap();
    let lost: Vec<Gpa> = (0..ERRORS)
        .map(|page| Gpa::new(touch::FREE.get() + page * (2 << 20) + 0x3000))
        .collect();
    touch::set(vm.ram(), 2, Some(0), &lost).unwrap();
    for gpa in &lost {
        let errors = vm.pagemend().emulated_errors();
        errors.inject(*gpa, Cause::ActionRequired).unwrap();
    }
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    for touch in touch::touches(vm.ram(), lost.len()).unwrap() {
        assert_eq!(
            touch.told,
            Some(touch.gpa),
            "it was told before it acknowledged"
        );
    }
    let started = Instant::now();
    while vm.pagemend().totals().healed < ERRORS {
        assert!(started.elapsed() < PATIENCE, "{:?}", vm.pagemend().totals());
        thread::yield_now();
    }
    for gpa in lost {
        let mut bytes = [0; FILL.len()];
        vm.ram().read(gpa, &mut bytes).unwrap();
        assert_eq!(bytes, FILL);
        let enforcement = vm.pagemend().with_ledger(|ledger| ledger.enforcement(gpa));
        assert_eq!(enforcement, Some(Enforcement::Guest));
    }
    let segments = vm.pagemend().segments();
    assert!(
        segments
            .iter()
            .all(|one| one.page_size == PageSize::SIZE_2M)
    );
}
