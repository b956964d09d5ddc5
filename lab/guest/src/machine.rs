//! A virtual machine of three instructions: it reads the word that it is told to read and hands it out. Its memory is a guest's, under pagemend.

use crate::guest::{GPA, Guest};
use crate::memory::{KIB_4, Mapping};
use crate::trial::lacking;
use anyhow::{Context, Result, bail};
use kvm_bindings::{kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use pagemend::{VcpuFault, VcpuThread};
use rustix::mm::MapFlags;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// `mov eax, [esi]; out 0x10, eax; hlt`.
const PROGRAM: [u8; 5] = [0x8b, 0x06, 0xe7, 0x10, 0xf4];

/// The machine, with its only vCPU. To be made and used on one thread.
pub(crate) struct Machine {
    vcpu: VcpuFd,
    thread: VcpuThread,
    met: Arc<AtomicBool>,
    _vm: VmFd,
    _code: Mapping,
}

/// What came of a read in the guest.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Read {
    /// The low half of the word, or the fault that cannot be put right.
    pub(crate) value: Result<u32, VcpuFault>,
    /// How often the vCPU was run again because its memory had been mended.
    pub(crate) mended: u32,
}

impl Machine {
    /// Sets `met` when the vCPU has met failed memory, before it asks what became of it.
    pub(crate) fn new(guest: &Guest, met: Arc<AtomicBool>) -> Result<Self> {
        if !Path::new("/dev/kvm").exists() {
            return Err(lacking("this kernel has no /dev/kvm on this machine"));
        }
        let code = Mapping::anonymous(KIB_4, KIB_4, MapFlags::empty())?;
        // SAFETY: the page was just mapped, and the program is shorter.
        unsafe { std::ptr::copy(PROGRAM.as_ptr(), code.base() as *mut u8, PROGRAM.len()) };
        let vm = Kvm::new()
            .and_then(|kvm| kvm.create_vm())
            .context("no virtual machine")?;
        for (slot, gpa, base, len) in [
            (0, 0, code.base(), KIB_4),
            (1, GPA, guest.base(), guest.len()),
        ] {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: gpa,
                memory_size: len as u64,
                userspace_addr: base as u64,
            };
            // SAFETY: both stay mapped for as long as the machine runs.
            unsafe { vm.set_user_memory_region(region) }.context("no memory for the machine")?;
        }
        let vcpu = vm.create_vcpu(0).context("no vCPU")?;
        let mut system = vcpu.get_sregs()?;
        // 32-bit protected mode, flat and without paging: a guest address is a guest physical one.
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
        vcpu.set_sregs(&system)?;
        Ok(Self {
            vcpu,
            thread: guest.pagemend.vcpu_thread()?,
            met,
            _vm: vm,
            _code: code,
        })
    }

    /// Has the guest read a word, as a VMM runs its vCPU.
    pub(crate) fn read(&mut self, offset: usize) -> Result<Read> {
        let registers = kvm_regs {
            rsi: GPA + offset as u64,
            rflags: 2,
            ..Default::default()
        };
        self.vcpu.set_regs(&registers)?;
        let mut mended = 0;
        loop {
            let vcpu = &mut self.vcpu;
            let exit = self.thread.run(move || vcpu.run());
            let value = match exit {
                Ok(VcpuExit::IoOut(0x10, data)) => Ok(u32::from_le_bytes(
                    data.try_into().context("not four bytes")?,
                )),
                Ok(other) => bail!("the vCPU ended with {other:?}"),
                Err(error) => {
                    self.met.store(true, Ordering::Release);
                    match self.thread.take_fault() {
                        Some(VcpuFault::Mended) => {
                            mended += 1;
                            continue;
                        }
                        Some(fault) => Err(fault),
                        None => {
                            return Err(error).context("the vCPU failed, and not for its memory");
                        }
                    }
                }
            };
            return Ok(Read { value, mended });
        }
    }
}
