//! Guest memory that KVM itself could not reach, and says so in an exit instead of a signal.
//!
//! - Where the kernel has no `CONFIG_MEMORY_FAILURE`, or the memory is not mapped in the VMM,
//!   `KVM_RUN` ends with `KVM_EXIT_MEMORY_FAULT` (`kvm_handle_error_pfn`, `arch/x86/kvm/mmu/mmu.c`).
//! - Where KVM emulates the instruction, with any kernel, it takes what it cannot reach for a
//!   device and makes an MMIO exit (`emulator_read_write_onepage`, `arch/x86/kvm/x86.c`). A VMM
//!   that answers it as it answers unknown devices gives the guest wrong data for its own memory.
//!
//! What became of the memory is found out by touching it through the guard, which waits for a mend
//! as any access does.

use kvm_ioctls::{VcpuExit, VcpuFd};
use pagemend_core::address::Gpa;
use pagemend_linux::guard::{GuardError, GuestRegion};
use pagemend_linux::{Pagemend, VcpuFault};
use vmm_sys_util::errno;

/// All memory that pagemend looks after. Known beforehand, so that ordinary exits need no lock.
#[derive(Debug)]
pub(super) struct Memory(Vec<GuestRegion>);

/// Memory that an exit was about, and was not to be.
pub(super) struct Unreached {
    pub(super) gpa: Gpa,
    pub(super) fault: VcpuFault,
    pub(super) instruction: Instruction,
}

/// How far the instruction is that could not reach memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Instruction {
    /// Not begun.
    Ahead,
    /// KVM emulates it, and the next `KVM_RUN` ends it with what was read for it.
    Loading,
    /// KVM has emulated it; what it stores was given to the VMM.
    Behind,
}

impl Memory {
    pub(super) fn of(pagemend: &Pagemend) -> Self {
        let names: Vec<String> =
            pagemend.with_map(|map| map.regions().map(|region| region.name.clone()).collect());
        Self(
            names
                .iter()
                .filter_map(|name| pagemend.memory(name))
                .collect(),
        )
    }

    /// If `exit` is about guest memory, does what it asks for. What cannot be read reads as ones,
    /// which the guest must not see: [`undo`].
    pub(super) fn reach(&self, pagemend: &Pagemend, exit: &mut VcpuExit<'_>) -> Option<Unreached> {
        let (gpa, instruction) = match exit {
            // With flags it is about who may see the memory.
            VcpuExit::MemoryFault { flags: 0, gpa, .. } => (*gpa, Instruction::Ahead),
            VcpuExit::MmioRead(gpa, _) => (*gpa, Instruction::Loading),
            VcpuExit::MmioWrite(gpa, _) => (*gpa, Instruction::Behind),
            _ => return None,
        };
        let gpa = Gpa::new(gpa);
        let region = self.0.iter().find(|region| region.range().contains(gpa))?;
        let done: Result<(), GuardError> = match exit {
            VcpuExit::MmioRead(_, data) => region.read(gpa, data).inspect_err(|_| data.fill(!0)),
            VcpuExit::MmioWrite(_, data) => region.write(gpa, data),
            _ => region.touch(gpa, 1),
        };
        let fault = if done.is_ok() {
            VcpuFault::Mended
        } else if pagemend.is_lost(gpa) {
            VcpuFault::Lost { gpa: gpa.frame() }
        } else {
            let offset = region.range().offset_of(gpa);
            let hva = offset.and_then(|offset| region.mapped_at().at(offset));
            VcpuFault::NotOurs {
                hva: hva.unwrap_or_default(),
            }
        };
        Some(Unreached {
            gpa,
            fault,
            instruction,
        })
    }
}

/// `EINTR`, `EAGAIN` (include/uapi/asm-generic/errno-base.h).
const EINTR: i32 = 4;
const EAGAIN: i32 = 11;

/// Takes back the instruction for which KVM is [loading](Instruction::Loading), as if it had not
/// begun: it is the one at which the guest takes its machine check, or that it executes again. KVM
/// cannot leave it out; so it ends with whatever it has, nobody acts on the exits that it still
/// makes, and the general registers get back what they held. Other registers that it loads from
/// lost memory (vector, segment, descriptor tables) keep what they got.
pub(super) fn undo(vcpu: &mut VcpuFd) -> Result<(), errno::Error> {
    let registers = vcpu.get_regs()?;
    finish(vcpu)?;
    vcpu.set_regs(&registers)
}

/// Ends the instruction that KVM emulates and has made its last exit for, with whatever was answered,
/// and does not enter the guest. Until then `KVM_RUN` acts on the registers that it finds, whoever
/// has set them meanwhile.
pub(super) fn finish(vcpu: &mut VcpuFd) -> Result<(), errno::Error> {
    vcpu.set_kvm_immediate_exit(1);
    let ended = loop {
        match vcpu.run() {
            Ok(VcpuExit::MmioRead(_, data) | VcpuExit::IoIn(_, data)) => data.fill(!0),
            Ok(_) => {}
            // One that waits to be started has nothing to end.
            Err(error) if matches!(error.errno(), EINTR | EAGAIN) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    vcpu.set_kvm_immediate_exit(0);
    ended
}
