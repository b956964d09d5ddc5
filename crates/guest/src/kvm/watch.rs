//! Seeing the guest end its machine checks: exits at its accesses to the registers for that.

use kvm_bindings::{
    KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_FILTER_READ,
    KVM_MSR_FILTER_WRITE, kvm_enable_cap,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::errno;

use super::ioctls::{FilterRange, answer_register, set_msr_filter};
use super::vcpu::{RegisterError, read, write};
use crate::deliver::{Config, Teller, watched};
use crate::x86::Vendor;
use crate::x86::bits::{HWCR_MC_STATUS_WR_EN, MSR_K7_HWCR, bank_of_status};

/// Makes the guest's accesses to the [watched](crate::deliver::watched) registers exits
/// (`VcpuExit::X86Rdmsr`, `VcpuExit::X86Wrmsr`), which then have to be answered with
/// [`register_read`] and [`register_written`]. A few for each machine check, and a dozen each time
/// that the guest polls its banks: every five minutes.
///
/// Sets the VM's MSR filter and its exit reasons, of which there is one set: a VMM that has its own
/// adds the registers there instead. Linux 5.10.
pub fn watch(vm: &VmFd, config: &Config) -> Result<(), errno::Error> {
    let reasons = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        args: [KVM_MSR_EXIT_REASON_FILTER.into(), 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&reasons)?;
    let mut ranges: Vec<FilterRange> = Vec::new();
    for (msr, reads) in watched(config) {
        let flags = KVM_MSR_FILTER_WRITE | if reads { KVM_MSR_FILTER_READ } else { 0 };
        // The first range that has a register decides, so registers that are near share one.
        if ranges.last().is_none_or(|range| range.flags != flags) {
            ranges.push(FilterRange::new(flags, msr));
        }
        if let Some(range) = ranges.last_mut() {
            range.exit_at(msr);
        }
    }
    set_msr_filter(vm, &mut ranges)
}

/// The vCPU has left the guest because it reads `msr`; false, and nothing done, if that is not
/// watched. `KVM_RUN` then ends the access.
pub fn register_read(
    vcpu: &mut VcpuFd,
    teller: &mut Teller,
    msr: u32,
) -> Result<bool, RegisterError> {
    if !watched(teller.config()).any(|(watched, reads)| watched == msr && reads) {
        return Ok(false);
    }
    let value = read(vcpu, msr)?;
    answer_register(vcpu, Some(value));
    teller.read(msr);
    Ok(true)
}

/// The vCPU has left the guest because it writes `value` to `msr`; false, and nothing done, if that
/// is not watched. `KVM_RUN` then ends the access.
pub fn register_written(
    vcpu: &mut VcpuFd,
    teller: &mut Teller,
    msr: u32,
    value: u64,
) -> Result<bool, RegisterError> {
    if !watched(teller.config()).any(|(watched, _)| watched == msr) {
        return Ok(false);
    }
    // Guests may only clear a bank's status, unless AMD's switch for it is on (KVM `set_msr_mce`).
    let faults = bank_of_status(msr).is_some()
        && value != 0
        && (teller.config().vendor != Vendor::Amd
            || read(vcpu, MSR_K7_HWCR)? & HWCR_MC_STATUS_WR_EN == 0);
    if faults {
        answer_register(vcpu, None);
        return Ok(true);
    }
    write(vcpu, msr, value)?;
    answer_register(vcpu, Some(value));
    teller.written(msr, value);
    Ok(true)
}
