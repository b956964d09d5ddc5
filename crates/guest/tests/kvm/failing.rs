//! A vCPU that touches memory that fails, run turn by turn: the library's own errors, KVM's own
//! exits, the guest's own machine checks.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VcpuExit;
use pagemend_core::address::{FRAME_SIZE, Gpa, PageSize};
use pagemend_core::ledger::Cause;
use pagemend_guest::deliver::{BANK_REQUIRED, Obstacle};
use pagemend_guest::kvm::{GuestVcpu, Kick, Turn, watch};
use pagemend_guest::x86::bits::CR4_MCE;
use pagemend_guest::x86::{AoSignal, MachineCheck, Vendor};
use pagemend_linux::probe::Pool;
use pagemend_linux::{GuestMemory, Inject, MemoryKind, Pagemend, RegionConfig, resize_pool};

use crate::machine::{Machine, Report, kvm, reports};
use crate::program::{ASK, Command, READ, SAY, STORED, TOUCHED};

const LEN: u64 = 4 << 20;
const VALUE: u32 = 0x600d_600d;

/// A process has one mender, and the tests of a binary share the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Guest {
    vcpu: GuestVcpu,
    pagemend: Arc<Pagemend>,
    /// What the vCPU wanted, in order.
    kicks: Rc<RefCell<Vec<Kick>>>,
    /// Turns that were no exits for the VMM, in order.
    turns: Vec<Turn<()>>,
    /// What the guest has read at [`TOUCHED`].
    read: Vec<u32>,
    machine: Machine,
    _turn: MutexGuard<'static, ()>,
}

impl Guest {
    /// With huge pages at [`TOUCHED`], or `None` where there is no KVM.
    fn new() -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut machine = Machine::new(&kvm()?, Vendor::Amd, AoSignal::Record, 1);
        let pool = Pool::of(PageSize::SIZE_2M).expect("a pool of 2 MiB pages");
        let missing = (LEN / PageSize::SIZE_2M.bytes()).saturating_sub(pool.spare());
        if missing > 0 {
            resize_pool(PageSize::SIZE_2M, pool.total + missing).expect("a pool that grows");
        }
        let memory = GuestMemory::new(MemoryKind::Hugetlb(PageSize::SIZE_2M), LEN);
        let memory = Arc::new(memory.expect("two huge pages"));
        for frame in (0..LEN).step_by(FRAME_SIZE as usize) {
            // SAFETY: it lies in the memory, which nobody else uses yet.
            unsafe {
                memory
                    .as_ptr()
                    .add(frame as usize)
                    .cast::<u32>()
                    .write(VALUE)
            };
        }
        let slot = kvm_userspace_memory_region {
            slot: 1,
            flags: 0,
            guest_phys_addr: TOUCHED,
            memory_size: LEN,
            userspace_addr: memory.as_ptr() as u64,
        };
        // SAFETY: pagemend keeps the memory, and is dropped after the vCPU.
        unsafe { machine.vm.set_user_memory_region(slot) }.unwrap();
        let ram = RegionConfig::of("ram", Gpa::new(TOUCHED), memory).unwrap();
        let pagemend = Arc::new(Pagemend::builder().region(ram).start().unwrap());
        let kicks = Rc::new(RefCell::new(Vec::new()));
        let (kicked, vcpu) = (Rc::clone(&kicks), machine.vcpus.remove(0));
        let vcpu = GuestVcpu::new(
            vcpu.fd,
            vcpu.mcg_cap,
            Arc::clone(&pagemend),
            vcpu.teller,
            move |kick| kicked.borrow_mut().push(kick),
        );
        Some(Self {
            vcpu: vcpu.unwrap(),
            pagemend,
            kicks,
            turns: Vec::new(),
            read: Vec::new(),
            machine,
            _turn: turn,
        })
    }

    fn fail(&self, offset: u64) {
        let errors = self.pagemend.emulated_errors();
        let gpa = Gpa::new(TOUCHED + offset);
        errors.inject(gpa, Cause::ActionRequired).unwrap();
    }

    /// Sets CR4.MCE for a guest that cannot do it any more.
    fn turn_on(&mut self) {
        let fd = self.vcpu.fd();
        let mut system = fd.get_sregs().unwrap();
        system.cr4 |= CR4_MCE;
        fd.set_sregs(&system).unwrap();
    }

    /// Has the guest follow the commands; ends when it asks again, or cannot be told.
    fn run(&mut self, commands: &[Command]) -> Vec<Report> {
        let (mut commands, mut said) = (commands.iter(), Vec::new());
        loop {
            let mut done = false;
            let read = &mut self.read;
            let turn = self.vcpu.turn(|exit| match exit {
                VcpuExit::IoIn(ASK, data) => {
                    let next = commands.next();
                    let command = next.copied().unwrap_or(Command::Idle) as u32;
                    data.copy_from_slice(&command.to_le_bytes());
                    done = next.is_none();
                }
                VcpuExit::IoOut(SAY, data) => said.push(word(data)),
                VcpuExit::IoOut(READ, data) => read.push(word(data)),
                other => panic!("the guest left with {other:?}"),
            });
            let turn = turn.unwrap();
            done |= matches!(turn, Turn::Refused { .. } | Turn::NotOurs { .. });
            if !matches!(turn, Turn::Exit(()) | Turn::Again) {
                self.turns.push(turn);
            }
            if done {
                return reports(&said);
            }
        }
    }
}

fn word(data: &[u8]) -> u32 {
    u32::from_le_bytes(data.try_into().unwrap())
}

#[test]
fn a_touch_beside_the_failed_frame_reads_what_was_there() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    guest.fail(0x3000);
    assert_eq!(guest.run(&[Command::TurnOn, Command::Touch]), []);
    assert_eq!(guest.read, [VALUE]);
    assert_eq!(guest.turns, [Turn::Mended]);
}

#[test]
fn a_store_beside_the_failed_frame_is_kept() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    guest.fail(0x3000);
    assert_eq!(guest.run(&[Command::Store, Command::Touch]), []);
    assert_eq!(guest.read, [STORED]);
    assert_eq!(guest.turns, [Turn::Mended]);
}

#[test]
fn a_store_to_the_failed_frame_is_a_machine_check_too() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    guest.fail(0);
    let reports = guest.run(&[Command::TurnOn, Command::Store]);
    assert_eq!(reports.len(), 1);
    let gpa = Gpa::new(TOUCHED);
    assert_eq!(guest.turns, [Turn::Told { gpa }]);
}

#[test]
fn a_store_that_cannot_be_told_does_not_go_on() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    guest.fail(0);
    let gpa = Gpa::new(TOUCHED);
    let refused = Turn::Refused {
        gpa,
        obstacle: Obstacle::MachineChecksOff,
    };
    assert_eq!(guest.run(&[Command::Store]), []);
    assert_eq!(guest.run(&[]), []);
    assert_eq!(guest.turns, [refused, refused]);
    guest.turn_on();
    assert_eq!(guest.run(&[])[0].records.len(), 1);
    assert_eq!(guest.turns[2..], [Turn::Told { gpa }]);
}

#[test]
fn a_touch_of_the_failed_frame_is_a_machine_check_at_its_address() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    guest.fail(0);
    let gpa = Gpa::new(TOUCHED);
    let record = MachineCheck::action_required(Vendor::Amd, BANK_REQUIRED, gpa, false);
    let reports = guest.run(&[Command::TurnOn, Command::Touch]);
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].records, [record]);
    assert_eq!(guest.turns, [Turn::Told { gpa }]);
    assert_ne!(guest.read, [VALUE]);
    assert_eq!(*guest.kicks.borrow(), []);
}

#[test]
fn a_touch_that_cannot_be_told_does_not_go_on() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    guest.fail(0);
    let gpa = Gpa::new(TOUCHED);
    let refused = Turn::Refused {
        gpa,
        obstacle: Obstacle::MachineChecksOff,
    };
    assert_eq!(guest.run(&[Command::Touch]), []);
    assert_eq!(guest.run(&[]), []);
    assert_eq!(guest.turns, [refused, refused]);
    assert!(guest.read.is_empty());
    // The guest is as it was: with machine checks on it takes this one.
    guest.turn_on();
    assert_eq!(guest.run(&[])[0].records.len(), 1);
    assert_eq!(guest.turns[2..], [Turn::Told { gpa }]);
}

#[test]
fn an_instruction_that_kvm_cannot_read_is_tried_again_and_is_then_the_vmms_concern() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    let mut registers = guest.vcpu.fd().get_regs().unwrap();
    // Mapped by the guest, and no memory.
    registers.rip = TOUCHED - FRAME_SIZE;
    guest.vcpu.fd().set_regs(&registers).unwrap();
    let mut tries = 0;
    let exit = loop {
        match guest.vcpu.turn(|exit| format!("{exit:?}")).unwrap() {
            Turn::Mended => tries += 1,
            Turn::Exit(exit) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((exit.as_str(), tries), ("InternalError", 16));
}

#[test]
fn a_vcpu_that_is_reset_at_a_register_begins_with_its_first_instruction() {
    let Some(mut guest) = Guest::new() else {
        return;
    };
    watch(&guest.machine.vm, guest.machine.checks.config()).expect("KVM filters these registers");
    let first = guest.vcpu.fd().get_regs().unwrap();
    guest.run(&[]);
    // Its next command is to clear the banks' status, each of which is an exit.
    let left = guest.vcpu.turn(|exit| match exit {
        VcpuExit::IoIn(ASK, data) => data.copy_from_slice(&(Command::Clear as u32).to_le_bytes()),
        other => panic!("the guest left with {other:?}"),
    });
    assert_eq!(left.unwrap(), Turn::Exit(()));
    while guest.vcpu.turn(|exit| panic!("{exit:?}")).unwrap() != Turn::<()>::Again {}
    guest.vcpu.reset().unwrap();
    guest.vcpu.fd().set_regs(&first).unwrap();
    // Ends what KVM has begun, and does not enter the guest.
    guest.vcpu.fd().set_kvm_immediate_exit(1);
    guest.vcpu.fd().run().unwrap_err();
    assert_eq!(guest.vcpu.fd().get_regs().unwrap(), first);
}
