//! What KVM offers for telling a guest of a memory error, and for learning of one from a guest.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use serde::Serialize;

use super::trial::{Refused, Trial, checked, refused};
use crate::abi::{
    KVM_CAP_ARM_INJECT_EXT_DABT, KVM_CAP_ARM_SEA_TO_USER, KVM_CAP_GUEST_MEMFD, KVM_CAP_MCE,
    KVM_CAP_MEMORY_FAULT_INFO, KVM_CHECK_EXTENSION, KVM_CREATE_IRQCHIP, KVM_CREATE_VCPU,
    KVM_CREATE_VM, KVM_GET_API_VERSION, KVM_GET_MSRS, KVM_X86_GET_MCE_CAP_SUPPORTED,
    KVM_X86_SETUP_MCE, KvmMsr, MCG_CMCI_P, MCG_CTL_P, MCG_LMCE_P, MCG_SER_P, MSR_MCG_CAP,
};

/// What came of opening /dev/kvm and asking it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kvm {
    /// Opening it and asking for its version.
    pub open: Trial,
    /// Its answers, where that worked.
    pub facts: Option<KvmFacts>,
}

/// What KVM says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KvmFacts {
    /// KVM_GET_API_VERSION: 12.
    pub api_version: i32,
    /// KVM_CAP_MCE: machine-check banks that a vCPU can have; 0 where there are none.
    pub mce_banks: u32,
    /// What a vCPU keeps of KVM_X86_GET_MCE_CAP_SUPPORTED; `None` where the request is unknown, as
    /// on arm64.
    pub mcg_cap: Option<McgCap>,
    /// KVM_CAP_GUEST_MEMFD.
    pub guest_memfd: bool,
    /// KVM_CAP_MEMORY_FAULT_INFO.
    pub memory_fault_info: bool,
    /// KVM_CAP_ARM_SEA_TO_USER.
    pub arm_sea_to_user: bool,
    /// KVM_CAP_ARM_INJECT_EXT_DABT.
    pub arm_inject_ext_dabt: bool,
}

/// The bits of MCG_CAP that a guest can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct McgCap {
    /// All of them, as the register has them.
    pub bits: u64,
    /// MCG_CTL_P: the global control register exists.
    pub ctl_p: bool,
    /// MCG_CMCI_P: corrected errors can raise an interrupt.
    pub cmci_p: bool,
    /// MCG_SER_P: the guest can recover from uncorrected errors.
    pub ser_p: bool,
    /// MCG_LMCE_P: one vCPU can be told instead of all.
    pub lmce_p: bool,
}

impl From<u64> for McgCap {
    fn from(bits: u64) -> Self {
        Self {
            bits,
            ctl_p: bits & MCG_CTL_P != 0,
            cmci_p: bits & MCG_CMCI_P != 0,
            ser_p: bits & MCG_SER_P != 0,
            lmce_p: bits & MCG_LMCE_P != 0,
        }
    }
}

impl Kvm {
    pub(super) fn try_all() -> Self {
        let facts = KvmFacts::ask();
        Self {
            open: (&facts).into(),
            facts: facts.ok(),
        }
    }
}

impl KvmFacts {
    fn ask() -> Result<Self, Refused> {
        let device = open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(refused("open /dev/kvm"))?;
        let has = |capability| extension(&device, capability) > 0;
        Ok(Self {
            api_version: request(&device, KVM_GET_API_VERSION, 0)
                .map_err(refused("ioctl(KVM_GET_API_VERSION)"))?,
            mce_banks: extension(&device, KVM_CAP_MCE),
            mcg_cap: mcg_cap(&device),
            guest_memfd: has(KVM_CAP_GUEST_MEMFD),
            memory_fault_info: has(KVM_CAP_MEMORY_FAULT_INFO),
            arm_sea_to_user: has(KVM_CAP_ARM_SEA_TO_USER),
            arm_inject_ext_dabt: has(KVM_CAP_ARM_INJECT_EXT_DABT),
        })
    }
}

/// A request whose argument is a number.
fn request(device: &OwnedFd, request: u32, argument: u32) -> Result<libc::c_int, Errno> {
    // SAFETY: the requests given here take their argument as a number, not as a pointer.
    checked(unsafe { libc::ioctl(device.as_raw_fd(), request as libc::Ioctl, argument) })
}

/// What KVM_CHECK_EXTENSION says; a kernel that does not know the capability says 0.
fn extension(device: &OwnedFd, capability: u32) -> u32 {
    request(device, KVM_CHECK_EXTENSION, capability)
        .ok()
        .and_then(|value| value.try_into().ok())
        .unwrap_or(0)
}

/// What a vCPU has of what KVM says that it supports. On an AMD processor it is less: KVM takes
/// MCG_SER_P there and drops it (`svm_setup_mce`, arch/x86/kvm/svm/svm.c).
fn mcg_cap(device: &OwnedFd) -> Option<McgCap> {
    let mut supported = 0u64;
    // SAFETY: the request writes one u64, which is what it is given.
    let returned = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            KVM_X86_GET_MCE_CAP_SUPPORTED as libc::Ioctl,
            &raw mut supported,
        )
    };
    checked(returned).ok()?;
    let kept = kept(device, supported).unwrap_or(supported);
    Some((kept & supported).into())
}

/// MCG_CAP of a vCPU that was given these bits.
fn kept(device: &OwnedFd, bits: u64) -> Result<u64, Errno> {
    let vm = descriptor(request(device, KVM_CREATE_VM, 0)?);
    // For a vCPU without one, KVM changes its own code, for all guests on the host
    // (`kvm_has_noapic_vcpu`).
    request(&vm, KVM_CREATE_IRQCHIP, 0)?;
    let vcpu = descriptor(request(&vm, KVM_CREATE_VCPU, 0)?);
    // With one bank.
    let wanted = bits | 1;
    // SAFETY: the request reads one u64, which is what it is given.
    let returned = unsafe {
        libc::ioctl(
            vcpu.as_raw_fd(),
            KVM_X86_SETUP_MCE as libc::Ioctl,
            &raw const wanted,
        )
    };
    checked(returned)?;
    let mut register = KvmMsr {
        nmsrs: 1,
        index: MSR_MCG_CAP,
        ..KvmMsr::default()
    };
    // SAFETY: the request writes the one register that there is room for.
    let returned = unsafe {
        libc::ioctl(
            vcpu.as_raw_fd(),
            KVM_GET_MSRS as libc::Ioctl,
            &raw mut register,
        )
    };
    match checked(returned)? {
        1 => Ok(register.data),
        _ => Err(Errno::INVAL),
    }
}

/// Owns a descriptor that a request has returned.
fn descriptor(returned: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(returned) }
}
