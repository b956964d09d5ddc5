//! What KVM can give a guest to recover with, asked of the kernel rather than of a VMM.

use super::wish::Model;
use anyhow::{Context, Result};
use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::Kvm;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOR(KVMIO, 0x9d, __u64)` (include/uapi/linux/kvm.h).
const KVM_X86_GET_MCE_CAP_SUPPORTED: libc::c_ulong = 0x8008_ae9d;
/// `_IOW(KVMIO, 0x9c, __u64)`.
const KVM_X86_SETUP_MCE: libc::c_ulong = 0x4008_ae9c;
/// `MSR_IA32_MCG_CAP`.
const MCG_CAP: u32 = 0x179;
/// `MCG_SER_P` (arch/x86/include/asm/mce.h): software can recover from uncorrected errors.
pub(crate) const MCG_SER_P: u64 = 1 << 24;
/// `MCG_CMCI_P`: errors without exception raise an interrupt.
pub(crate) const MCG_CMCI_P: u64 = 1 << 10;
/// `MCG_LMCE_P`: a machine check can be told to one processor alone.
pub(crate) const MCG_LMCE_P: u64 = 1 << 27;

/// Whether a Linux guest on processors of this model can recover. AMD's need CPUID bits alone, which any VMM can set.
pub(crate) fn recovers(model: Model) -> Result<bool> {
    match model {
        Model::Amd => Ok(true),
        Model::Intel => Ok(machine_checks()? & MCG_SER_P != 0),
    }
}

/// Instructions that KVM has read and decoded so far, for all guests, if it counts them. Each was a moment in which a guest's page tables had to be there.
pub(crate) fn decoded() -> Option<u64> {
    let count = fs::read_to_string("/sys/kernel/debug/kvm/insn_emulation").ok()?;
    count.trim().parse().ok()
}

/// What a vCPU of KVM's has of machine checks: bits of MCG_CAP. KVM on an AMD processor takes more than its vCPUs then have.
pub(crate) fn machine_checks() -> Result<u64> {
    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let mut taken = 0u64;
    // SAFETY: the kernel writes one word, which is there.
    done(unsafe {
        libc::ioctl(
            kvm.as_raw_fd(),
            KVM_X86_GET_MCE_CAP_SUPPORTED,
            &raw mut taken,
        )
    })?;
    let vcpu = kvm
        .create_vm()
        // Without the interrupt controller KVM would change its own code for this.
        .and_then(|vm| vm.create_irq_chip().and_then(|()| vm.create_vcpu(0)))
        .context("KVM makes no vCPU")?;
    // One bank.
    let wanted = taken & !0xff | 1;
    // SAFETY: the kernel reads one word, which is there.
    done(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_X86_SETUP_MCE, &raw const wanted) })?;
    let entry = kvm_msr_entry {
        index: MCG_CAP,
        ..Default::default()
    };
    let mut had = Msrs::from_entries(&[entry]).context("no room for a register")?;
    let read = vcpu.get_msrs(&mut had).context("KVM shows no MCG_CAP")?;
    Ok(had.as_slice()[..read].first().map_or(0, |entry| entry.data))
}

fn done(answer: i32) -> Result<()> {
    match answer {
        0.. => Ok(()),
        _ => {
            Err(io::Error::last_os_error()).context("KVM does not say which machine checks it has")
        }
    }
}
