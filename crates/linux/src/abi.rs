//! Kernel ABI that no crate has: userfaultfd's poison and continue, memfd's keep-mapped flag,
//! KVM's machine-check calls.
//!
//! Here and nowhere else, so that every number stands beside the kernel macro it is, and is
//! checked at compile time: a wrong one is not an error but somebody else's request.

use std::mem::size_of;

/// `_IOC_NONE` of include/uapi/asm-generic/ioctl.h: the request carries no data.
const NONE: u32 = 0;
/// `_IOC_WRITE`: the kernel reads the argument.
const WRITE: u32 = 1;
/// `_IOC_READ`: the kernel writes the argument.
const READ: u32 = 2;

/// `_IOC` of include/uapi/asm-generic/ioctl.h, which x86-64 and arm64 both use.
const fn ioc(direction: u32, kind: u32, number: u32, size: usize) -> u32 {
    assert!(size < 1 << 14);
    direction << 30 | (size as u32) << 16 | kind << 8 | number
}

// include/uapi/linux/userfaultfd.h

/// `UFFD_API`: the version to ask for in [`UffdioApi::api`].
pub const UFFD_API: u64 = 0xaa;
/// `UFFDIO`: the ioctl type of all userfaultfd requests; equal to the version by choice.
const UFFDIO: u32 = 0xaa;

/// `UFFD_USER_MODE_ONLY`: flag of userfaultfd(2) that gives up faults taken inside the kernel, and
/// with them the need for a privilege. Kernel 5.11.
pub const UFFD_USER_MODE_ONLY: u32 = 1;

/// `UFFD_FEATURE_MISSING_HUGETLBFS`: missing faults on hugetlb memory. Kernel 4.11.
pub const UFFD_FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
/// `UFFD_FEATURE_MISSING_SHMEM`: missing faults on shmem. Kernel 4.11.
pub const UFFD_FEATURE_MISSING_SHMEM: u64 = 1 << 5;
/// `UFFD_FEATURE_MINOR_HUGETLBFS`: minor faults, thus CONTINUE, on hugetlb memory. Kernel 5.13.
pub const UFFD_FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
/// `UFFD_FEATURE_MINOR_SHMEM`: minor faults, thus CONTINUE, on shmem. Kernel 5.14.
pub const UFFD_FEATURE_MINOR_SHMEM: u64 = 1 << 10;
/// `UFFD_FEATURE_EXACT_ADDRESS`: messages carry the address as touched. Kernel 5.18.
pub const UFFD_FEATURE_EXACT_ADDRESS: u64 = 1 << 11;
/// `UFFD_FEATURE_POISON`: [`UFFDIO_POISON`] exists. Kernel 6.6.
pub const UFFD_FEATURE_POISON: u64 = 1 << 14;

/// Every `UFFD_FEATURE_*` bit by the name after that prefix, lowest bit first.
pub const UFFD_FEATURE_NAMES: [&str; 17] = [
    "PAGEFAULT_FLAG_WP",
    "EVENT_FORK",
    "EVENT_REMAP",
    "EVENT_REMOVE",
    "MISSING_HUGETLBFS",
    "MISSING_SHMEM",
    "EVENT_UNMAP",
    "SIGBUS",
    "THREAD_ID",
    "MINOR_HUGETLBFS",
    "MINOR_SHMEM",
    "EXACT_ADDRESS",
    "WP_HUGETLBFS_SHMEM",
    "WP_UNPOPULATED",
    "POISON",
    "WP_ASYNC",
    "MOVE",
];

/// `UFFDIO_REGISTER_MODE_MISSING`: fault on pages that are not in the page cache.
pub const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
/// `UFFDIO_REGISTER_MODE_WP`: fault on writes to protected pages.
pub const UFFDIO_REGISTER_MODE_WP: u64 = 2;
/// `UFFDIO_REGISTER_MODE_MINOR`: fault on pages that are in the page cache and not mapped here.
pub const UFFDIO_REGISTER_MODE_MINOR: u64 = 4;

/// `UFFDIO_CONTINUE_MODE_DONTWAKE`: leave the threads that wait on the range asleep.
pub const UFFDIO_CONTINUE_MODE_DONTWAKE: u64 = 1;
/// `UFFDIO_POISON_MODE_DONTWAKE`: leave the threads that wait on the range asleep.
pub const UFFDIO_POISON_MODE_DONTWAKE: u64 = 1;

/// `struct uffdio_api`: the handshake of [`UFFDIO_API`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UffdioApi {
    /// In: [`UFFD_API`].
    pub api: u64,
    /// In: features to switch on. Out: all that the kernel offers.
    pub features: u64,
    /// Out: bit n set if the request with number n exists.
    pub ioctls: u64,
}

/// `struct uffdio_range`, in bytes; both fields multiples of the page size.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UffdioRange {
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// `struct uffdio_register`: argument of [`UFFDIO_REGISTER`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UffdioRegister {
    /// What to register.
    pub range: UffdioRange,
    /// `UFFDIO_REGISTER_MODE_*`, or-ed.
    pub mode: u64,
    /// Out: bit n set if the request with number n can be used on the range.
    pub ioctls: u64,
}

/// `struct uffdio_continue`: argument of [`UFFDIO_CONTINUE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UffdioContinue {
    /// What to map from the page cache.
    pub range: UffdioRange,
    /// `UFFDIO_CONTINUE_MODE_*`, or-ed.
    pub mode: u64,
    /// Out: bytes mapped, or a negated errno.
    pub mapped: i64,
}

/// `struct uffdio_poison`: argument of [`UFFDIO_POISON`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UffdioPoison {
    /// What to mark.
    pub range: UffdioRange,
    /// `UFFDIO_POISON_MODE_*`, or-ed.
    pub mode: u64,
    /// Out: bytes marked, or a negated errno.
    pub updated: i64,
}

/// `UFFDIO_API`: version and features; the first request on every descriptor.
pub const UFFDIO_API: u32 = ioc(READ | WRITE, UFFDIO, 0x3f, size_of::<UffdioApi>());
/// `UFFDIO_REGISTER`: receive the faults of a range.
pub const UFFDIO_REGISTER: u32 = ioc(READ | WRITE, UFFDIO, 0x00, size_of::<UffdioRegister>());
/// `UFFDIO_UNREGISTER`: no longer receive the faults of an [`UffdioRange`].
pub const UFFDIO_UNREGISTER: u32 = ioc(READ, UFFDIO, 0x01, size_of::<UffdioRange>());
/// `UFFDIO_WAKE`: let the threads that wait on an [`UffdioRange`] touch it again.
pub const UFFDIO_WAKE: u32 = ioc(READ, UFFDIO, 0x02, size_of::<UffdioRange>());
/// `UFFDIO_CONTINUE`: map what the page cache holds. Kernel 5.13.
pub const UFFDIO_CONTINUE: u32 = ioc(READ | WRITE, UFFDIO, 0x07, size_of::<UffdioContinue>());
/// `UFFDIO_POISON`: make every touch of a range a memory error. Kernel 6.6.
pub const UFFDIO_POISON: u32 = ioc(READ | WRITE, UFFDIO, 0x08, size_of::<UffdioPoison>());
/// `USERFAULTFD_IOC_NEW`: a new descriptor from /dev/userfaultfd; the argument is userfaultfd(2)'s
/// flags. Kernel 6.1.
pub const USERFAULTFD_IOC_NEW: u32 = ioc(NONE, UFFDIO, 0x00, 0);

const _: () = {
    assert!(size_of::<UffdioApi>() == 24);
    assert!(size_of::<UffdioRange>() == 16);
    assert!(size_of::<UffdioRegister>() == 32);
    assert!(size_of::<UffdioContinue>() == 32);
    assert!(size_of::<UffdioPoison>() == 32);
    assert!(UFFDIO_API == 0xc018_aa3f);
    assert!(UFFDIO_REGISTER == 0xc020_aa00);
    assert!(UFFDIO_UNREGISTER == 0x8010_aa01);
    assert!(UFFDIO_WAKE == 0x8010_aa02);
    assert!(UFFDIO_CONTINUE == 0xc020_aa07);
    assert!(UFFDIO_POISON == 0xc020_aa08);
    assert!(USERFAULTFD_IOC_NEW == 0xaa00);
};

// include/uapi/linux/memfd.h, include/uapi/asm-generic/mman-common.h

/// `MFD_MF_KEEP_UE_MAPPED`: a hugetlb memfd whose pages stay mapped after a memory failure. In no
/// mainline kernel up to 7.2; where it is unknown, memfd_create gives EINVAL.
pub const MFD_MF_KEEP_UE_MAPPED: u32 = 0x20;

/// `MADV_COLLAPSE`: make the range one transparent huge page now. Kernel 6.1.
pub const MADV_COLLAPSE: i32 = 25;

// include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h, arch/x86/include/asm/mce.h

/// `KVMIO`: the ioctl type of all KVM requests.
const KVMIO: u32 = 0xae;

/// `KVM_API_VERSION`: the only version there is since 2007.
pub const KVM_API_VERSION: i32 = 12;

/// `KVM_CAP_MCE`: gives the number of machine-check banks.
pub const KVM_CAP_MCE: u32 = 31;
/// `KVM_CAP_ARM_INJECT_EXT_DABT`: external data aborts can be injected. Kernel 5.5.
pub const KVM_CAP_ARM_INJECT_EXT_DABT: u32 = 178;
/// `KVM_CAP_MEMORY_FAULT_INFO`: a failed `KVM_RUN` says at which address. Kernel 6.8.
pub const KVM_CAP_MEMORY_FAULT_INFO: u32 = 232;
/// `KVM_CAP_GUEST_MEMFD`: guest memory that is never mapped by the VMM. Kernel 6.8.
pub const KVM_CAP_GUEST_MEMFD: u32 = 234;
/// `KVM_CAP_ARM_SEA_TO_USER`: a guest's synchronous external abort exits to the VMM. Kernel 6.19.
pub const KVM_CAP_ARM_SEA_TO_USER: u32 = 245;

/// `struct kvm_x86_mce`: argument of [`KVM_X86_SET_MCE`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvmX86Mce {
    /// MCi_STATUS.
    pub status: u64,
    /// MCi_ADDR: a guest physical address.
    pub addr: u64,
    /// MCi_MISC.
    pub misc: u64,
    /// MCG_STATUS.
    pub mcg_status: u64,
    /// The bank, i.
    pub bank: u8,
    /// Zero.
    pub pad1: [u8; 7],
    /// Zero.
    pub pad2: [u64; 3],
}

/// `struct kvm_msrs` with room for one register: argument of [`KVM_GET_MSRS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvmMsr {
    /// How many there are: 1.
    pub nmsrs: u32,
    /// Zero.
    pub pad: u32,
    /// Which register.
    pub index: u32,
    /// Zero.
    pub reserved: u32,
    /// What it holds.
    pub data: u64,
}

/// `KVM_GET_API_VERSION`: on /dev/kvm; returns [`KVM_API_VERSION`].
pub const KVM_GET_API_VERSION: u32 = ioc(NONE, KVMIO, 0x00, 0);
/// `KVM_CREATE_VM`: on /dev/kvm; the argument is a type, 0 for the usual; returns a descriptor.
pub const KVM_CREATE_VM: u32 = ioc(NONE, KVMIO, 0x01, 0);
/// `KVM_CREATE_VCPU`: on a VM; the argument is the vCPU's number; returns a descriptor.
pub const KVM_CREATE_VCPU: u32 = ioc(NONE, KVMIO, 0x41, 0);
/// `KVM_CREATE_IRQCHIP`: on a VM; gives it interrupt controllers, which its vCPUs then have.
pub const KVM_CREATE_IRQCHIP: u32 = ioc(NONE, KVMIO, 0x60, 0);
/// `KVM_GET_MSRS`: on a vCPU; returns how many registers it has read. Its number has the size of
/// the structure without registers.
pub const KVM_GET_MSRS: u32 = ioc(READ | WRITE, KVMIO, 0x88, 2 * size_of::<u32>());
/// `KVM_CHECK_EXTENSION`: on /dev/kvm or a VM; the argument is a `KVM_CAP_*`.
pub const KVM_CHECK_EXTENSION: u32 = ioc(NONE, KVMIO, 0x03, 0);
/// `KVM_X86_SETUP_MCE`: on a vCPU; sets MCG_CAP, whose low byte is the number of banks.
pub const KVM_X86_SETUP_MCE: u32 = ioc(WRITE, KVMIO, 0x9c, size_of::<u64>());
/// `KVM_X86_GET_MCE_CAP_SUPPORTED`: on /dev/kvm; the MCG_CAP bits that a guest can be given.
pub const KVM_X86_GET_MCE_CAP_SUPPORTED: u32 = ioc(READ, KVMIO, 0x9d, size_of::<u64>());
/// `KVM_X86_SET_MCE`: on a vCPU; injects a machine check.
pub const KVM_X86_SET_MCE: u32 = ioc(WRITE, KVMIO, 0x9e, size_of::<KvmX86Mce>());

/// `MSR_IA32_MCG_CAP` (arch/x86/include/asm/msr-index.h): what a processor has of machine checks.
pub const MSR_MCG_CAP: u32 = 0x179;
/// `MCG_CTL_P`: the global control register exists.
pub const MCG_CTL_P: u64 = 1 << 8;
/// `MCG_CMCI_P`: corrected errors can raise an interrupt.
pub const MCG_CMCI_P: u64 = 1 << 10;
/// `MCG_SER_P`: the guest can recover from uncorrected errors in software.
pub const MCG_SER_P: u64 = 1 << 24;
/// `MCG_LMCE_P`: a machine check can be told to one vCPU instead of all.
pub const MCG_LMCE_P: u64 = 1 << 27;

const _: () = {
    assert!(size_of::<KvmX86Mce>() == 64);
    assert!(size_of::<KvmMsr>() == 24);
    assert!(KVM_GET_API_VERSION == 0xae00);
    assert!(KVM_CREATE_VM == 0xae01);
    assert!(KVM_CREATE_VCPU == 0xae41);
    assert!(KVM_CREATE_IRQCHIP == 0xae60);
    assert!(KVM_GET_MSRS == 0xc008_ae88);
    assert!(KVM_CHECK_EXTENSION == 0xae03);
    assert!(KVM_X86_SETUP_MCE == 0x4008_ae9c);
    assert!(KVM_X86_GET_MCE_CAP_SUPPORTED == 0x8008_ae9d);
    assert!(KVM_X86_SET_MCE == 0x4040_ae9e);
};
