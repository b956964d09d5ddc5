//! Reads of memory that is in order, and of memory that is not.

use std::thread;

use pagemend::{Cause, Gpa, Inject};
use pagemend_vmm::guests::touch;
use pagemend_vmm::{CpuModel, End, FailureAction, Flags, Phase, Untold, Vm, VmConfig, What};

use crate::machine::{alone, config, huge};

const VCPUS: u8 = 2;

#[test]
fn a_guest_of_two_vcpus_reads_its_memory_while_the_other_watches_the_clock() {
    let _alone = alone();
    let vm = Vm::new(config(touch::code(), VCPUS)).unwrap();
    assert_eq!(vm.phase(), Phase::Paused);
    let addresses: Vec<Gpa> = (0..100)
        .map(|page| Gpa::new(touch::FREE.get() + page * 0x1_2008))
        .collect();
    for gpa in &addresses {
        vm.ram().write(*gpa, &gpa.get().to_le_bytes()).unwrap();
    }
    touch::set(vm.ram(), VCPUS, None, &addresses).unwrap();
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    let touches = touch::touches(vm.ram(), addresses.len()).unwrap();
    for (touch, gpa) in touches.iter().zip(&addresses) {
        assert_eq!(touch.gpa, *gpa);
        assert_eq!((touch.value, touch.told), (Some(gpa.get()), None));
        assert!(touch.ticks > 0);
        assert!(touch.bystander.is_some());
    }
    let clock = touch::clock(vm.ram(), 1).unwrap();
    assert!(clock.rounds > 0);
    // It was stopped in the middle of a round.
    assert!(clock.rounds - clock.gaps.iter().sum::<u64>() <= 1);
}

#[test]
fn a_read_is_watched_for_as_long_as_was_asked_whatever_it_took() {
    let _alone = alone();
    let vm = Vm::new(config(touch::code(), VCPUS)).unwrap();
    let addresses = [touch::FREE; 3];
    touch::set(vm.ram(), VCPUS, Some(0), &addresses).unwrap();
    let asked = u64::from(vm.tsc_khz()) * 20;
    touch::watch(vm.ram(), 2, asked).unwrap();
    let started = std::time::Instant::now();
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    // Twice 20 ms.
    assert!(started.elapsed().as_millis() >= 40);
    for touch in touch::touches(vm.ram(), addresses.len()).unwrap() {
        assert_eq!((touch.value, touch.told), (Some(0), None));
    }
}

#[test]
fn a_guest_that_listens_is_told_of_each_frame_that_nobody_touched() {
    let _alone = alone();
    let vm = Vm::new(VmConfig {
        cpu: CpuModel::Intel,
        ..config(touch::code(), 1)
    })
    .unwrap();
    let lost: Vec<Gpa> = (0..20)
        .map(|page| Gpa::new(touch::FREE.get() + page * 0x20_3000))
        .collect();
    let healthy: Vec<Gpa> = lost
        .iter()
        .map(|gpa| Gpa::new(gpa.get() + 0x1008))
        .collect();
    for gpa in &healthy {
        vm.ram().write(*gpa, &gpa.get().to_le_bytes()).unwrap();
    }
    touch::set(vm.ram(), 1, Some(20), &healthy).unwrap();
    let errors = vm.pagemend().emulated_errors();
    for gpa in &lost {
        errors.inject(*gpa, Cause::ActionOptional).unwrap();
    }
    vm.pagemend().settle();
    assert_eq!(vm.waiting(), lost);
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    assert_eq!(touch::told_meanwhile(vm.ram()).unwrap(), 20);
    assert_eq!(vm.waiting(), []);
    assert_eq!(vm.told().machine_checks.optional, 20);
    for touch in touch::touches(vm.ram(), 20).unwrap() {
        assert_eq!(touch.value, Some(touch.gpa.get()));
    }
}

/// Touches healthy memory beside each loss, and then what is lost.
fn healthy_and_lost(errors: u64) -> (Vec<Gpa>, Vec<Gpa>) {
    let lost: Vec<Gpa> = (0..errors)
        .map(|page| Gpa::new(touch::FREE.get() + page * (2 << 20) + 0x3000))
        .collect();
    let beside = |gpa: &Gpa| Gpa::new(gpa.get() + 0x1008);
    (lost.iter().map(beside).collect(), lost)
}

#[test]
fn a_vcpu_that_touches_failed_memory_reads_what_was_there_and_is_told_what_is_not() {
    let _alone = alone();
    let vm = Vm::new(huge(touch::code(), 2, 16)).unwrap();
    let events = vm.events().subscribe();
    let (healthy, lost) = healthy_and_lost(16);
    for gpa in &healthy {
        vm.ram().write(*gpa, &gpa.get().to_le_bytes()).unwrap();
    }
    touch::set(
        vm.ram(),
        2,
        Some(0),
        &[healthy.clone(), lost.clone()].concat(),
    )
    .unwrap();
    let errors = vm.pagemend().emulated_errors();
    for gpa in &lost {
        errors.inject(*gpa, Cause::ActionRequired).unwrap();
    }
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    let touches = touch::touches(vm.ram(), 32).unwrap();
    let (mended, told) = touches.split_at(16);
    for (touch, gpa) in mended.iter().zip(&healthy) {
        assert_eq!((touch.value, touch.told), (Some(gpa.get()), None));
    }
    for (touch, gpa) in told.iter().zip(&lost) {
        assert_eq!((touch.value, touch.told), (None, Some(*gpa)));
    }
    assert_eq!(vm.pagemend().totals().mended, 16);
    let failures = events.try_iter().filter_map(|event| match event.what {
        What::MemoryFailure {
            gpa, flags, action, ..
        } => Some((gpa, flags.action_required, action)),
        _ => None,
    });
    // Each frame when its page was mended, and again when the guest touched it.
    let inject = FailureAction::Inject;
    let once = |required| lost.iter().map(move |gpa| (*gpa, required, inject));
    assert!(failures.eq(once(false).chain(once(true))));
    vm.pagemend()
        .with_ledger(|ledger| assert_eq!(ledger.lost_bytes(), 16 * 4096));
}

#[test]
fn a_guest_that_touches_a_lost_frame_and_is_not_listening_does_not_run_on() {
    let _alone = alone();
    for (untold, expected) in [
        (Untold::Stop, FailureAction::Fatal),
        (Untold::Pause, FailureAction::Fatal),
        (Untold::Reset, FailureAction::Reset),
    ] {
        let vm = Vm::new(VmConfig {
            untold,
            ..config(touch::code(), 1)
        })
        .unwrap();
        touch::set(vm.ram(), 1, None, &[touch::FREE]).unwrap();
        let errors = vm.pagemend().emulated_errors();
        errors.inject(touch::FREE, Cause::ActionRequired).unwrap();
        let events = vm.events().subscribe();
        vm.resume().unwrap();
        let says_why = |reason: &str| {
            assert!(reason.contains("cannot be told"), "{reason}");
            assert!(reason.contains("machine checks off"), "{reason}");
        };
        let (mut failures, mut pauses) = (vec![], vec![]);
        let end = thread::scope(|scope| {
            let end = scope.spawn(|| vm.run_to_the_end().unwrap());
            for event in &events {
                match &event.what {
                    What::MemoryFailure {
                        gpa, flags, action, ..
                    } => failures.push((*gpa, *flags, *action)),
                    What::Pause { reason } => {
                        pauses.push(reason.clone());
                        assert_eq!(vm.phase(), Phase::Paused);
                        vm.shut_down();
                    }
                    What::Shutdown { .. } => break,
                    _ => {}
                }
            }
            end.join().unwrap()
        });
        // The guest was not dealing with another one.
        let flags = Flags {
            action_required: true,
            recursive: false,
        };
        assert_eq!(failures, [(touch::FREE, flags, expected)]);
        assert_eq!(pauses.len(), usize::from(untold == Untold::Pause));
        match end {
            End::Crash(reason) => {
                assert_eq!(untold, Untold::Stop);
                says_why(&reason);
            }
            End::Off if untold == Untold::Pause => says_why(pauses[0].as_deref().unwrap()),
            End::Off => {
                // After the reset the frame is fresh memory, and the guest reads it.
                assert_eq!(untold, Untold::Reset);
                let touch = touch::touches(vm.ram(), 1).unwrap()[0];
                assert_eq!((touch.value, touch.told), (Some(0), None));
                vm.pagemend()
                    .with_ledger(|ledger| assert_eq!(ledger.lost_bytes(), 0));
            }
        }
    }
}
