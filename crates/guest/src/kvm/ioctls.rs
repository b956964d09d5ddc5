//! KVM's machine-check requests, which kvm-ioctls has not, and its MSR filter.
//!
//! The only unsafe code of this crate. Numbers and structures are those of
//! include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h, checked at compile time.

use std::ffi::{c_int, c_ulong};
use std::mem::size_of;

use kvm_bindings::{KVMIO, kvm_msr_filter, kvm_msr_filter_range, kvm_run, kvm_x86_mce};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{_IOC_READ, _IOC_WRITE, ioctl_expr, ioctl_with_mut_ref, ioctl_with_ref};

use crate::x86::MachineCheck;

const KVM_X86_SETUP_MCE: c_ulong = ioctl_expr(_IOC_WRITE, KVMIO, 0x9c, size_of::<u64>() as u32);
const KVM_X86_GET_MCE_CAP_SUPPORTED: c_ulong =
    ioctl_expr(_IOC_READ, KVMIO, 0x9d, size_of::<u64>() as u32);
const KVM_X86_SET_MCE: c_ulong =
    ioctl_expr(_IOC_WRITE, KVMIO, 0x9e, size_of::<kvm_x86_mce>() as u32);
const KVM_X86_SET_MSR_FILTER: c_ulong =
    ioctl_expr(_IOC_WRITE, KVMIO, 0xc6, size_of::<kvm_msr_filter>() as u32);

const _: () = {
    assert!(size_of::<kvm_x86_mce>() == 64);
    assert!(size_of::<kvm_msr_filter>() == 392);
    assert!(KVM_X86_SETUP_MCE == 0x4008_ae9c);
    assert!(KVM_X86_GET_MCE_CAP_SUPPORTED == 0x8008_ae9d);
    assert!(KVM_X86_SET_MCE == 0x4040_ae9e);
    assert!(KVM_X86_SET_MSR_FILTER == 0x4188_aec6);
};

/// The MCG_CAP bits that a guest can be given.
///
/// See the documentation for `KVM_X86_GET_MCE_CAP_SUPPORTED`: a system request, with
/// `KVM_CAP_MCE`.
pub fn mce_cap_supported(kvm: &Kvm) -> Result<u64, errno::Error> {
    let mut bits = 0u64;
    // SAFETY: the descriptor is KVM's, and the request writes one u64, which is what it is given.
    checked(unsafe { ioctl_with_mut_ref(kvm, KVM_X86_GET_MCE_CAP_SUPPORTED, &mut bits) })?;
    Ok(bits)
}

/// Gives a vCPU its machine-check banks, empty and enabled.
///
/// See the documentation for `KVM_X86_SETUP_MCE`: a vCPU request, with `KVM_CAP_MCE`. EINVAL where
/// `mcg_cap` has more banks or other bits than KVM supports.
///
/// # Arguments
///
/// * `mcg_cap` - MCG_CAP as the guest is to see it; the low byte is the number of banks.
pub fn setup_mce(vcpu: &VcpuFd, mcg_cap: u64) -> Result<(), errno::Error> {
    // SAFETY: the descriptor is a vCPU's, and the request reads one u64, which is what it is given.
    checked(unsafe { ioctl_with_ref(vcpu, KVM_X86_SETUP_MCE, &mcg_cap) })
}

/// Puts a record into a bank and, if it is an uncorrected error, raises a machine check.
///
/// See the documentation for `KVM_X86_SET_MCE`: a vCPU request, with `KVM_CAP_MCE`. EINVAL where
/// there is no such bank, or the record is not valid. Does nothing where an uncorrected error is
/// not enabled; shuts the vCPU down where it cannot be taken; ends the machine check that the
/// guest is in where it is one without action ([`deliver`](crate::deliver) sees to all three).
pub fn set_mce(vcpu: &VcpuFd, record: &MachineCheck) -> Result<(), errno::Error> {
    let argument = kvm_x86_mce {
        status: record.status,
        addr: record.addr,
        misc: record.misc,
        mcg_status: record.mcg_status,
        bank: record.bank,
        ..Default::default()
    };
    // SAFETY: the descriptor is a vCPU's, and the request reads the structure that it is given.
    checked(unsafe { ioctl_with_ref(vcpu, KVM_X86_SET_MCE, &argument) })
}

/// Registers from one on, and at which of them accesses make an exit.
pub(super) struct FilterRange {
    /// Which accesses: `KVM_MSR_FILTER_READ`, `KVM_MSR_FILTER_WRITE`.
    pub(super) flags: u32,
    base: u32,
    /// A bit a register, set where KVM does the access itself. In words, because KVM reads whole
    /// ones.
    allowed: Vec<u64>,
}

impl FilterRange {
    pub(super) fn new(flags: u32, base: u32) -> Self {
        Self {
            flags,
            base,
            allowed: Vec::new(),
        }
    }

    /// Adds a register, which is not below the first.
    pub(super) fn exit_at(&mut self, msr: u32) {
        let (word, bit) = ((msr - self.base) / 64, (msr - self.base) % 64);
        let words = self.allowed.len().max(word as usize + 1);
        self.allowed.resize(words, u64::MAX);
        self.allowed[word as usize] &= !(1 << bit);
    }
}

/// Replaces a VM's MSR filter: all accesses are KVM's own but those of `ranges`, of which there
/// are no more than 16.
pub(super) fn set_msr_filter(vm: &VmFd, ranges: &mut [FilterRange]) -> Result<(), errno::Error> {
    let mut filter = kvm_msr_filter::default();
    for (to, from) in filter.ranges.iter_mut().zip(ranges) {
        *to = kvm_msr_filter_range {
            flags: from.flags,
            nmsrs: 64 * from.allowed.len() as u32,
            base: from.base,
            bitmap: from.allowed.as_mut_ptr().cast(),
        };
    }
    // SAFETY: the descriptor is a VM's; each bitmap has a bit for each register and outlives the
    // call, which copies it.
    checked(unsafe { ioctl_with_ref(vm, KVM_X86_SET_MSR_FILTER, &filter) })
}

/// Answers the access to a register with which the vCPU has left the guest: the value that it
/// reads, or `None` to have it fault.
pub(super) fn answer_register(vcpu: &mut VcpuFd, answer: Option<u64>) {
    let run: &mut kvm_run = vcpu.get_kvm_run();
    // SAFETY: every bit pattern is a value of these integers. Whatever the last exit was, what it
    // left here is only read again by KVM, and only as integers.
    let msr = unsafe { &mut run.__bindgen_anon_1.msr };
    msr.error = u8::from(answer.is_none());
    msr.data = answer.unwrap_or(msr.data);
}

fn checked(returned: c_int) -> Result<(), errno::Error> {
    if returned < 0 {
        Err(errno::Error::last())
    } else {
        Ok(())
    }
}
