//! A virtual machine of a few instructions, whose memory is a guest's.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use pagemend_core::address::Gpa;
use pagemend_linux::guard::{GuardError, GuestRegion};
use pagemend_linux::{GuestMemory, MemoryKind, VcpuFault, VcpuThread};

use crate::guest::{BASE, Guest};

/// Where the guest's memory is in the machine: where 32 bits reach. The library knows it at `BASE`,
/// so that one for the other shows.
const WINDOW: u64 = 1 << 30;

/// `mov eax, [esi]; out 0x10, eax; hlt`.
const LOAD: [u8; 5] = [0x8b, 0x06, 0xe7, 0x10, 0xf4];
/// `mov [esi], eax; out 0x10, eax; hlt`.
const STORE: [u8; 5] = [0x89, 0x06, 0xe7, 0x10, 0xf4];

/// The machine, with its only vCPU. To be made and used on one thread.
pub(crate) struct Machine {
    vcpu: VcpuFd,
    thread: VcpuThread,
    ram: GuestRegion,
    _vm: VmFd,
    code: GuestMemory,
}

/// What came of an access in the guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// The value that the guest has, or the fault that cannot be put right.
    pub(crate) value: Result<u32, VcpuFault>,
    /// How often its memory had been mended.
    pub(crate) mended: u32,
}

impl Machine {
    pub(crate) fn new(guest: &Guest) -> Self {
        let code = GuestMemory::new(MemoryKind::Anonymous, 4096).unwrap();
        let vm = Kvm::new().and_then(|kvm| kvm.create_vm());
        let vm = vm.expect("/dev/kvm runs machines of a few instructions");
        let slots = [
            (0, 0, code.hva(), 4096),
            (1, WINDOW, guest.memory.hva(), guest.memory.len()),
        ];
        for (slot, gpa, base, len) in slots {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: gpa,
                memory_size: len,
                userspace_addr: base.get(),
            };
            // SAFETY: both stay mapped for as long as the machine runs.
            unsafe { vm.set_user_memory_region(region) }.unwrap();
        }
        let vcpu = vm.create_vcpu(0).unwrap();
        let mut system = vcpu.get_sregs().unwrap();
        // 32-bit protected mode, flat and without paging: an address is a guest physical one.
        let flat = |selector, type_| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            s: 1,
            db: 1,
            g: 1,
            ..Default::default()
        };
        system.cs = flat(8, 0xb);
        (system.ds, system.es, system.ss) = (flat(16, 3), flat(16, 3), flat(16, 3));
        system.cr0 |= 1;
        vcpu.set_sregs(&system).unwrap();
        Self {
            vcpu,
            thread: guest.pagemend.vcpu_thread().unwrap(),
            ram: guest.pagemend.memory("ram").unwrap(),
            _vm: vm,
            code,
        }
    }

    /// The guest reads the low half of a word.
    pub(crate) fn load(&mut self, offset: u64) -> Access {
        self.execute(LOAD, offset, 0)
    }

    /// The guest writes the low half of a word.
    pub(crate) fn store(&mut self, offset: u64, value: u32) -> Access {
        self.execute(STORE, offset, value)
    }

    fn execute(&mut self, program: [u8; 5], offset: u64, eax: u32) -> Access {
        // SAFETY: the page is larger than the program, and only this machine knows it.
        unsafe {
            let to = self.code.as_ptr();
            to.copy_from_nonoverlapping(program.as_ptr(), program.len());
        }
        let before = kvm_regs {
            rsi: WINDOW + offset,
            rax: eax.into(),
            rflags: 2,
            ..Default::default()
        };
        self.vcpu.set_regs(&before).unwrap();
        let mut mended = 0;
        loop {
            let value = match self.step() {
                Step::Out(value) => Ok(value),
                Step::Fault(VcpuFault::Mended) => {
                    mended += 1;
                    continue;
                }
                Step::Fault(fault) => {
                    self.undo(&before);
                    Err(fault)
                }
            };
            return Access { value, mended };
        }
    }

    /// Runs until there is a value or a fault, as a VMM does.
    fn step(&mut self) -> Step {
        let (vcpu, ram) = (&mut self.vcpu, &self.ram);
        let gpa = |address: u64| Gpa::new(address - WINDOW + BASE);
        // The exit borrows the vCPU, so what it needs is done while it is there.
        let exit = self.thread.run(|| vcpu.run());
        let (at, done) = match exit {
            Ok(VcpuExit::IoOut(0x10, data)) => {
                return Step::Out(u32::from_le_bytes(data.try_into().unwrap()));
            }
            Ok(VcpuExit::MmioRead(at, data)) => {
                let fault = self.thread.take_fault_at(gpa(at));
                (fault, ram.read(gpa(at), data))
            }
            Ok(VcpuExit::MmioWrite(at, data)) => {
                let fault = self.thread.take_fault_at(gpa(at));
                (fault, ram.write(gpa(at), data))
            }
            Ok(other) => panic!("the vCPU ended with {other:?}"),
            Err(error) => match self.thread.take_fault() {
                Some(fault) => return Step::Fault(fault),
                None => panic!("{error}, and not for the machine's memory"),
            },
        };
        let fault = at.expect("an address of guest memory");
        assert_eq!(
            fault == VcpuFault::Mended,
            done.is_ok(),
            "{fault:?} {done:?}"
        );
        assert!(matches!(done, Ok(()) | Err(GuardError::Poisoned { .. })));
        Step::Fault(fault)
    }

    /// Ends an instruction that was left in the middle as if it had not been executed.
    fn undo(&mut self, before: &kvm_regs) {
        self.vcpu.set_kvm_immediate_exit(1);
        let left = self.vcpu.run().map(|exit| format!("{exit:?}"));
        assert_eq!(left.unwrap_err().errno(), libc::EINTR);
        self.vcpu.set_kvm_immediate_exit(0);
        self.vcpu.set_regs(before).unwrap();
    }
}

enum Step {
    Out(u32),
    Fault(VcpuFault),
}
