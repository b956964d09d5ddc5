//! Flat guests of a few instructions on this machine's KVM.

use pagemend::{Gpa, MemoryKind, Policy};
use pagemend_vmm::guests::touch;
use pagemend_vmm::seccomp::Seccomp;
use pagemend_vmm::{Console, CpuModel, End, MemoryConfig, Payload, Phase, Untold, Vm, VmConfig};

const MIB: u64 = 1 << 20;

fn config(vcpus: u8) -> VmConfig {
    VmConfig {
        memory: MemoryConfig {
            bytes: 64 * MIB,
            kind: MemoryKind::Shmem,
            policy: Policy::Mend,
        },
        vcpus,
        cpu: CpuModel::Host,
        payload: Payload::Flat(touch::code()),
        console: Console::Off,
        channel: None,
        untold: Untold::Stop,
        early: true,
        seccomp: Seccomp::On,
    }
}

const VCPUS: u8 = 2;

#[test]
fn a_guest_of_two_vcpus_reads_its_memory_while_the_other_watches_the_clock() {
    let vm = Vm::new(config(VCPUS)).unwrap();
    assert_eq!(vm.phase(), Phase::Paused);
    let addresses: Vec<Gpa> = (0..100)
        .map(|page| Gpa::new(touch::FREE.get() + page * 0x1_2008))
        .collect();
    for gpa in &addresses {
        vm.ram().write(*gpa, &gpa.get().to_le_bytes()).unwrap();
    }
    touch::set(vm.ram(), VCPUS, true, &addresses).unwrap();
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    let touches = touch::touches(vm.ram(), addresses.len()).unwrap();
    for (touch, gpa) in touches.iter().zip(&addresses) {
        assert_eq!(touch.gpa, *gpa);
        assert_eq!((touch.value, touch.told), (Some(gpa.get()), None));
        assert!(touch.ticks > 0);
    }
    let clock = touch::clock(vm.ram(), 1).unwrap();
    assert!(clock.rounds > 0);
    // It was stopped in the middle of a round.
    assert!(clock.rounds - clock.gaps.iter().sum::<u64>() <= 1);
}
