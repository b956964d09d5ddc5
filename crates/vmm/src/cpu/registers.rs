//! All registers of a vCPU as they were when it was made, so that a reset can put them back.

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd};
use pagemend_guest::x86::bits::{MCG_BANKCNT_MASK, msr_mci_ctl};

/// The local APIC's pins and their modes (Intel SDM, volume 3, section 11.5.1): the first vCPU's
/// are wired to the interrupt controllers and to NMI, as a BIOS leaves them.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const EXTERNAL: u32 = 0x700;
const NMI: u32 = 0x400;

/// The time stamp counter, which a reset of a machine sets back like any register.
const IA32_TSC: u32 = 0x10;
/// Fast string operations on, as a BIOS leaves them.
const IA32_MISC_ENABLE: u32 = 0x1a0;
const FAST_STRINGS: u64 = 1;
/// Memory types: everything write-back, as a BIOS leaves it.
const MTRR_DEF_TYPE: u32 = 0x2ff;
const WRITE_BACK_ENABLED: u64 = 1 << 11 | 6;

/// A vCPU's registers.
#[derive(Clone, Debug)]
pub(crate) struct Registers {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    msrs: Vec<kvm_msr_entry>,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
}

impl Registers {
    /// Reads all of them. `mcg_cap` is the vCPU's MCG_CAP.
    pub(crate) fn of(kvm: &Kvm, vcpu: &VcpuFd, mcg_cap: u64) -> Result<Self, kvm_ioctls::Error> {
        Ok(Self {
            regs: vcpu.get_regs()?,
            sregs: vcpu.get_sregs()?,
            fpu: vcpu.get_fpu()?,
            // A processor without XSAVE has none.
            xcrs: vcpu.get_xcrs().ok(),
            debug: vcpu.get_debug_regs()?,
            events: vcpu.get_vcpu_events()?,
            msrs: read_msrs(kvm, vcpu, mcg_cap)?,
            lapic: vcpu.get_lapic()?,
            mp_state: vcpu.get_mp_state()?,
        })
    }

    /// Puts all of them back.
    pub(crate) fn restore(&self, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
        // The state decides which of the others are accepted, so it comes first.
        vcpu.set_mp_state(self.mp_state)?;
        vcpu.set_regs(&self.regs)?;
        vcpu.set_sregs(&self.sregs)?;
        vcpu.set_fpu(&self.fpu)?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs)?;
        }
        vcpu.set_debug_regs(&self.debug)?;
        vcpu.set_lapic(&self.lapic)?;
        // After the APIC, whose timer mode decides whether a deadline is taken.
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events)
    }
}

/// What a BIOS would leave in a vCPU that is about to start an operating system.
pub(crate) fn initialize(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let msr = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    let msrs = [
        msr(IA32_MISC_ENABLE, FAST_STRINGS),
        msr(MTRR_DEF_TYPE, WRITE_BACK_ENABLED),
        msr(IA32_TSC, 0),
    ];
    write_msrs(vcpu, &msrs)?;
    let mut lapic = vcpu.get_lapic()?;
    for (pin, mode) in [(LVT_LINT0, EXTERNAL), (LVT_LINT1, NMI)] {
        for (register, byte) in lapic.regs[pin..].iter_mut().zip(mode.to_le_bytes()) {
            *register = byte as _;
        }
    }
    vcpu.set_lapic(&lapic)
}

/// All MSRs that KVM gives, but for those which this processor turns out not to have. The banks of
/// machine checks are not in KVM's list. A processor keeps them when it is reset, so that the next
/// system sees what they hold; here that is about memory which is whole again.
fn read_msrs(
    kvm: &Kvm,
    vcpu: &VcpuFd,
    mcg_cap: u64,
) -> Result<Vec<kvm_msr_entry>, kvm_ioctls::Error> {
    let list = kvm.get_msr_index_list()?;
    let banks = msr_mci_ctl(0)..msr_mci_ctl((mcg_cap & MCG_BANKCNT_MASK) as u8);
    let entries = list.as_slice().iter().copied().chain(banks);
    let entries = entries.map(|index| kvm_msr_entry {
        index,
        ..Default::default()
    });
    let mut known = vec![];
    let mut rest: Vec<_> = entries.collect();
    while !rest.is_empty() {
        let mut msrs = Msrs::from_entries(&rest).expect("fewer MSRs than a list may have");
        // KVM stops at the first that it does not read.
        let read = vcpu.get_msrs(&mut msrs)?;
        known.extend_from_slice(&msrs.as_slice()[..read]);
        rest.drain(..(read + 1).min(rest.len()));
    }
    Ok(known)
}

/// Writes MSRs, but for those that cannot be written with what was read from them.
fn write_msrs(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), kvm_ioctls::Error> {
    let mut rest = entries;
    while !rest.is_empty() {
        let msrs = Msrs::from_entries(rest).expect("fewer MSRs than a list may have");
        let written = vcpu.set_msrs(&msrs)?;
        rest = &rest[(written + 1).min(rest.len())..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
    use pagemend_guest::kvm::{mce_cap_supported, setup_vcpu};
    use pagemend_guest::x86::bits::msr_mci_status;

    use super::*;

    #[test]
    fn a_machine_check_does_not_outlive_a_reset() {
        let kvm = Kvm::new().unwrap();
        let vm = kvm.create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        let vcpu = vm.create_vcpu(0).unwrap();
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();
        vcpu.set_cpuid2(&cpuid).unwrap();
        let supported = mce_cap_supported(&kvm).unwrap();
        let mcg_cap = setup_vcpu(&vcpu, &cpuid, supported, 16).unwrap();
        let registers = Registers::of(&kvm, &vcpu, mcg_cap).unwrap();
        let status = |data| kvm_msr_entry {
            index: msr_mci_status(15),
            data,
            ..Default::default()
        };
        write_msrs(&vcpu, &[status(0x9c00_1800_0000_0000)]).unwrap();
        registers.restore(&vcpu).unwrap();
        let mut read = Msrs::from_entries(&[status(1)]).unwrap();
        assert_eq!(vcpu.get_msrs(&mut read).unwrap(), 1);
        assert_eq!(read.as_slice()[0].data, 0);
    }
}
