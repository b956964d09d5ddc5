//! Flat guests of a few instructions on this machine's KVM.

use pagemend::{Gpa, MemoryKind, Policy};
use pagemend_vmm::{Console, CpuModel, End, MemoryConfig, Payload, Phase, Untold, Vm, VmConfig};

const MIB: u64 = 1 << 20;

fn config(code: &[u8]) -> VmConfig {
    VmConfig {
        memory: MemoryConfig {
            bytes: 64 * MIB,
            kind: MemoryKind::Shmem,
            policy: Policy::Mend,
        },
        vcpus: 1,
        cpu: CpuModel::Host,
        payload: Payload::Flat(code.to_vec()),
        console: Console::Off,
        channel: None,
        untold: Untold::Stop,
        early: true,
    }
}

/// `mov edx, 0x600; mov al, 0x34; out dx, al; jmp $`: switches the machine off.
const OFF: [u8; 10] = [0xba, 0x00, 0x06, 0, 0, 0xb0, 0x34, 0xee, 0xeb, 0xfe];

/// `mov qword ptr [0x200000 + rdi*8], rdi + 1; lock inc dword ptr [0x300000]`, and the last of two
/// switches off.
#[test]
fn a_flat_guest_runs_and_switches_itself_off() {
    let mut code = vec![
        0xc7, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, 0x2a, 0, 0,
        0, // mov dword ptr [0x200000], 42
    ];
    code.extend(OFF);
    let vm = Vm::new(config(&code)).unwrap();
    assert_eq!(vm.phase(), Phase::Paused);
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    let mut word = [0; 4];
    vm.ram().read(Gpa::new(0x20_0000), &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), 42);
}
