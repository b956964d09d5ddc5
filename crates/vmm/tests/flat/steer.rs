//! Starting, stopping, and starting again.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;

use pagemend::{Cause, Gpa, Inject};
use pagemend_vmm::guests::{echo, restart, touch};
use pagemend_vmm::{
    Console, CpuModel, End, Payload, Phase, Untold, Vm, VmConfig, VmError, VmEvent, What,
};
use tempfile::NamedTempFile;

use crate::machine::{alone, config};

#[test]
fn a_guest_can_start_again() {
    let _alone = alone();
    let vm = Vm::new(config(restart::code(), 1)).unwrap();
    let events = vm.events().subscribe();
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    assert_eq!(restart::starts(vm.ram()).unwrap(), restart::ENOUGH);
    drop(vm);
    let resets = events
        .iter()
        .filter(|event| matches!(event.what, What::Reset { by_guest: true, .. }));
    assert_eq!(resets.count() as u64, restart::ENOUGH - 1);
}

#[test]
fn a_paused_guest_stands_still_and_is_told_afterwards_of_what_failed_meanwhile() {
    let _alone = alone();
    let vm = Vm::new(VmConfig {
        cpu: CpuModel::Intel,
        ..config(touch::code(), 3)
    })
    .unwrap();
    let rounds = || {
        let of = |vcpu| touch::clock(vm.ram(), vcpu).unwrap().rounds;
        [of(1), of(2)]
    };
    touch::set(vm.ram(), 3, Some(1), &[]).unwrap();
    vm.resume().unwrap();
    // The guest cannot end before it has been told of a lost frame, so its clocks run.
    while rounds().contains(&0) {
        thread::yield_now();
    }
    vm.pause().unwrap();
    assert_eq!(vm.phase(), Phase::Paused);
    let before = rounds();
    let errors = vm.pagemend().emulated_errors();
    errors.inject(touch::FREE, Cause::ActionOptional).unwrap();
    assert_eq!(rounds(), before);
    assert_eq!(vm.waiting(), [touch::FREE]);
    vm.resume().unwrap();
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    assert_eq!(touch::told_meanwhile(vm.ram()).unwrap(), 1);
    assert!(matches!(vm.pause(), Err(VmError::Ended)));
    assert!(matches!(vm.resume(), Err(VmError::Ended)));
    assert!(matches!(vm.reset(), Err(VmError::Ended)));
}

/// A machine that has reported twice in one start that its guest cannot be told of a lost frame, as
/// two vCPUs do at once. What is reported waits until somebody brings the machine to its end.
fn twice_untold(untold: Untold) -> Vm {
    let vm = Vm::new(VmConfig {
        untold,
        ..config(touch::code(), 1)
    })
    .unwrap();
    touch::set(vm.ram(), 1, None, &[touch::FREE]).unwrap();
    let errors = vm.pagemend().emulated_errors();
    errors.inject(touch::FREE, Cause::ActionRequired).unwrap();
    let events = vm.events().subscribe();
    for _ in 0..2 {
        // When it stands, the gate is closed for what it touched before, and no more to come.
        vm.pause().unwrap();
        vm.resume().unwrap();
        let touched = |what: &What| matches!(what, What::MemoryFailure { flags, .. } if flags.action_required);
        assert!(events.iter().any(|event| touched(&event.what)));
    }
    vm
}

#[test]
fn a_machine_starts_again_once_however_often_its_guest_could_not_be_told() {
    let _alone = alone();
    let vm = twice_untold(Untold::Reset);
    // It stands, and all is said.
    vm.pause().unwrap();
    let events = vm.events().subscribe();
    thread::scope(|scope| {
        let end = scope.spawn(|| vm.run_to_the_end().unwrap());
        let reset = |what: &What| matches!(what, What::Reset { .. });
        assert!(events.iter().any(|event| reset(&event.what)));
        vm.resume().unwrap();
        // It reads fresh memory, and switches itself off.
        assert_eq!(end.join().unwrap(), End::Off);
        let again = events.try_iter().filter(|event| reset(&event.what));
        assert_eq!(again.count(), 0);
    });
}

#[test]
fn a_machine_pauses_once_however_often_its_guest_could_not_be_told() {
    let _alone = alone();
    let vm = twice_untold(Untold::Pause);
    let events = vm.events().subscribe();
    thread::scope(|scope| {
        let end = scope.spawn(|| vm.run_to_the_end().unwrap());
        let pause = |what: &What| matches!(what, What::Pause { reason: Some(_) });
        assert!(events.iter().any(|event| pause(&event.what)));
        // Behind what it has said.
        vm.shut_down();
        assert_eq!(end.join().unwrap(), End::Off);
        let again = events.try_iter().filter(|event| pause(&event.what));
        assert_eq!(again.count(), 0);
    });
}

/// The least that is a kernel: an ELF file that is `code` alone, at 4 MiB.
fn elf(code: &[u8]) -> Vec<u8> {
    const AT: u64 = 4 << 20;
    let len = code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(64 + 56, 0);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    // Type, machine, and the sizes of the headers, of which there is one for the program.
    for (at, value) in [(16, 2_u16), (18, 62), (52, 64), (54, 56), (56, 1)] {
        put(at, &value.to_le_bytes());
    }
    // Version; the program is to be loaded.
    for (at, value) in [(20, 1_u32), (64, 1)] {
        put(at, &value.to_le_bytes());
    }
    // Entry, program header; where the code is in the file and in memory, twice its length, alignment.
    let program = [(72, 120), (88, AT), (96, len), (104, len), (112, 4)];
    for (at, value) in [(24, AT), (32, 64)].into_iter().chain(program) {
        put(at, &value.to_le_bytes());
    }
    file.extend(code);
    file
}

/// A machine that cannot start again: its kernel, which starts it again at once, is gone.
fn without_kernel() -> Vm {
    let kernel = NamedTempFile::new().unwrap();
    fs::write(&kernel, elf(&restart::code())).unwrap();
    let payload = Payload::Linux {
        kernel: kernel.path().to_owned(),
        initrd: None,
        cmdline: String::new(),
    };
    Vm::new(VmConfig {
        payload,
        ..config(vec![], 1)
    })
    .unwrap()
}

/// How the machine ended, and that it says so to everybody.
fn end_without_kernel(vm: &Vm, events: Receiver<Arc<VmEvent>>) {
    let End::Crash(reason) = vm.run_to_the_end().unwrap() else {
        panic!("it was not switched off");
    };
    assert!(reason.contains("cannot start again"), "{reason}");
    assert!(reason.contains("cannot be read"), "{reason}");
    let what: Vec<What> = events.try_iter().map(|event| event.what.clone()).collect();
    let last = what.last().unwrap();
    assert!(
        matches!(last, What::Shutdown { reason: said } if *said == reason),
        "{last:?}"
    );
    let ends = what
        .iter()
        .filter(|what| matches!(what, What::Shutdown { .. }));
    assert_eq!(ends.count(), 1);
    assert_eq!(vm.phase(), Phase::Ended);
    assert!(matches!(vm.resume(), Err(VmError::Ended)));
    assert!(matches!(vm.run_to_the_end(), Err(VmError::Ended)));
}

#[test]
fn a_machine_that_cannot_start_again_for_its_guest_has_crashed() {
    let _alone = alone();
    let vm = without_kernel();
    let events = vm.events().subscribe();
    vm.resume().unwrap();
    end_without_kernel(&vm, events);
}

#[test]
fn a_machine_that_cannot_start_again_on_request_has_crashed() {
    let _alone = alone();
    let vm = without_kernel();
    let events = vm.events().subscribe();
    assert!(matches!(vm.reset(), Err(VmError::Boot(_))));
    end_without_kernel(&vm, events);
}

#[test]
fn the_serial_ports_go_where_they_were_sent() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let (file, socket) = (directory.path().join("out"), directory.path().join("in"));
    let listener = UnixListener::bind(&socket).unwrap();
    let vm = Vm::new(VmConfig {
        console: Console::File(file.clone()),
        channel: Some(socket),
        ..config(echo::code(), 1)
    })
    .unwrap();
    let (mut channel, _) = listener.accept().unwrap();
    vm.resume().unwrap();
    // More than the port can hold, so that its sender has to wait for the guest.
    let line = format!("{}\n", "memory fails ".repeat(16));
    channel.write_all(line.as_bytes()).unwrap();
    let mut count = [0];
    channel.read_exact(&mut count).unwrap();
    assert_eq!(usize::from(count[0]), line.len());
    assert_eq!(vm.run_to_the_end().unwrap(), End::Off);
    assert_eq!(fs::read_to_string(file).unwrap(), line);
}

#[test]
fn a_machine_that_cannot_be_is_refused_with_what_is_wrong() {
    let _alone = alone();
    let refused = |config: VmConfig| Vm::new(config).err().unwrap().to_string();
    let none = refused(config(echo::code(), 0));
    assert!(
        none.contains("0 vCPUs") && none.contains("1 to 8"),
        "{none}"
    );
    let large = refused(config(vec![0; 64 << 20], 1));
    assert!(
        large.contains("flat payload") && large.contains("memory"),
        "{large}"
    );
    let lost = refused(VmConfig {
        channel: Some("/nowhere/at/all".into()),
        ..config(echo::code(), 1)
    });
    assert!(lost.contains("channel"), "{lost}");
    // Nothing is left of any of them.
    let vm = Vm::new(config(restart::code(), 1)).unwrap();
    assert_eq!(vm.ram().ranges().next().unwrap().start(), Gpa::new(0));
}
