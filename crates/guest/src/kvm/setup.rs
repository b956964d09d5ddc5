//! A vCPU's machine-check registers before it runs: what a processor and its firmware would have
//! set up.

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};
use vmm_sys_util::errno;

use super::cpuid;
use super::ioctls::{mce_cap_supported, setup_mce};
use crate::x86::Vendor;
use crate::x86::bits::*;

/// `EINVAL` (include/uapi/asm-generic/errno-base.h).
const EINVAL: i32 = 22;

/// VMX in CPUID leaf 1, ECX, and the bit of FEAT_CTL that lets software use it
/// (`FEAT_CTL_VMX_ENABLED_OUTSIDE_SMX`).
const CPUID_1_ECX_VMX: u32 = 1 << 5;
const FEAT_CTL_VMX: u64 = 1 << 2;

/// Why a vCPU cannot take machine checks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// Nobody knows the rules of this vendor.
    #[error(
        "the vCPU's CPUID names a vendor whose guests do not recover from memory errors: use the CPUID of an Intel or AMD processor"
    )]
    Vendor,
    /// KVM does not take MCG_CAP.
    #[error("KVM refuses {mcg_cap:#x} as MCG_CAP: ask mce_cap_kept for what it has")]
    McgCap {
        /// The value.
        mcg_cap: u64,
        /// What KVM said.
        source: errno::Error,
    },
    /// KVM does not take IA32_FEAT_CTL.
    #[error(
        "KVM refuses to enable local machine checks (IA32_FEAT_CTL): leave MCG_LMCE_P out of what is supported"
    )]
    FeatCtl,
}

/// MCG_CAP for a guest of `vendor`, of what KVM has ([`mce_cap_kept`]). `banks` is its number of banks.
///
/// AMD processors have none of the bits for recovery, local checks and CMCI.
pub const fn mcg_cap(vendor: Vendor, supported: u64, banks: u8) -> u64 {
    let wanted = match vendor {
        Vendor::Intel => MCG_CTL_P | MCG_SER_P | MCG_LMCE_P | MCG_CMCI_P,
        Vendor::Amd => MCG_CTL_P,
    };
    supported & wanted | banks as u64
}

/// The bits of MCG_CAP that a guest can really be given: those that KVM
/// [supports](mce_cap_supported) and a vCPU keeps. They are fewer on AMD processors, where KVM says
/// that it has MCG_SER_P, takes it, and clears it again (`svm_setup_mce`, `arch/x86/kvm/svm/svm.c`):
/// there a guest that takes its processors for Intel's cannot recover from a machine check.
///
/// Makes a machine with one vCPU to find out.
pub fn mce_cap_kept(kvm: &Kvm) -> Result<u64, errno::Error> {
    let supported = mce_cap_supported(kvm)?;
    let vm = kvm.create_vm()?;
    // For a vCPU without KVM's interrupt controller KVM changes its own code, on all processors, and
    // back (`kvm_has_noapic_vcpu`, arch/x86/kvm/lapic.c).
    vm.create_irq_chip()?;
    let vcpu = vm.create_vcpu(0)?;
    setup_mce(&vcpu, supported | 1)?;
    Ok(mcg_cap_of(&vcpu)? & supported)
}

/// MCG_CAP as the guest sees it.
fn mcg_cap_of(vcpu: &VcpuFd) -> Result<u64, errno::Error> {
    let entry = kvm_msr_entry {
        index: MSR_MCG_CAP,
        ..Default::default()
    };
    let mut msrs = Msrs::from_entries(&[entry]).expect("one register fits");
    match vcpu.get_msrs(&mut msrs)? {
        1 => Ok(msrs.as_slice()[0].data),
        _ => Err(errno::Error::new(EINVAL)),
    }
}

/// Gives the vCPU banks and MCG_CAP, which it returns as KVM keeps it, and allows local machine checks where there
/// are any, as firmware would. `cpuid` is what the vCPU has been given with KVM_SET_CPUID2; to be
/// called before it runs.
pub fn setup_vcpu(
    vcpu: &VcpuFd,
    cpuid: &CpuId,
    supported: u64,
    banks: u8,
) -> Result<u64, SetupError> {
    let vendor = cpuid::vendor(cpuid).ok_or(SetupError::Vendor)?;
    let mcg_cap = mcg_cap(vendor, supported, banks);
    let mcg_cap = setup_mce(vcpu, mcg_cap)
        .and_then(|()| mcg_cap_of(vcpu))
        .map_err(|source| SetupError::McgCap { mcg_cap, source })?;
    if mcg_cap & MCG_LMCE_P != 0 {
        let mut leaves = cpuid.as_slice().iter();
        let vmx = leaves.any(|leaf| leaf.function == 1 && leaf.ecx & CPUID_1_ECX_VMX != 0);
        // Locked, as Linux takes it for unset otherwise, and sets it without local checks. So what
        // else the guest may use has to be allowed here, too.
        let data = FEAT_CTL_LOCKED | FEAT_CTL_LMCE_ENABLED | if vmx { FEAT_CTL_VMX } else { 0 };
        let entry = kvm_msr_entry {
            index: MSR_FEAT_CTL,
            data,
            ..Default::default()
        };
        let msrs = Msrs::from_entries(&[entry]).expect("one register fits");
        if !matches!(vcpu.set_msrs(&msrs), Ok(1)) {
            return Err(SetupError::FeatCtl);
        }
    }
    Ok(mcg_cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_gets_the_bits_that_its_vendor_has() {
        let all = MCG_CTL_P | MCG_SER_P | MCG_LMCE_P | MCG_CMCI_P;
        assert_eq!(mcg_cap(Vendor::Intel, all | 1 << 26, 16), all | 16);
        assert_eq!(
            mcg_cap(Vendor::Intel, MCG_CTL_P | MCG_SER_P, 16),
            0x0100_0110
        );
        assert_eq!(mcg_cap(Vendor::Amd, all, 16), MCG_CTL_P | 16);
    }
}
