//! Whether page faults can be taken over, which ones, and by which way.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags, open};
use rustix::mm::UserfaultfdFlags;
use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::Host;
use super::trial::{Refused, Trial, checked, refused};
use crate::abi::{
    UFFD_API, UFFD_FEATURE_NAMES, UFFD_USER_MODE_ONLY, UFFDIO_API, USERFAULTFD_IOC_NEW, UffdioApi,
};

/// What came of asking for a descriptor, by each way there is.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Userfaultfd {
    /// /dev/userfaultfd: includes faults taken inside the kernel. Kernel 6.1.
    pub device: Trial,
    /// userfaultfd(2): includes faults taken inside the kernel; wants CAP_SYS_PTRACE or
    /// `vm.unprivileged_userfaultfd`.
    pub syscall: Trial,
    /// userfaultfd(2) with UFFD_USER_MODE_ONLY: for everybody.
    pub syscall_user_mode: Trial,
    /// What the kernel offers, where one of the ways works.
    pub features: Option<Features>,
}

/// `UFFD_FEATURE_*` bits. As JSON: `{"bits": number, "names": [string]}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features(pub u64);

impl Features {
    /// Whether all of `bits` are offered.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// The names of those offered, without their prefix. A bit without a name is left out.
    pub fn names(self) -> Vec<&'static str> {
        UFFD_FEATURE_NAMES
            .into_iter()
            .enumerate()
            .filter_map(|(bit, name)| self.has(1 << bit).then_some(name))
            .collect()
    }
}

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Features", 2)?;
        fields.serialize_field("bits", &self.0)?;
        fields.serialize_field("names", &self.names())?;
        fields.end()
    }
}

/// What allows this process to handle faults that are taken inside the kernel, KVM's above all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelFaults {
    /// Access to /dev/userfaultfd.
    Device,
    /// CAP_SYS_PTRACE.
    Capability,
    /// `vm.unprivileged_userfaultfd`.
    Sysctl,
}

impl Host {
    /// What allows faults taken inside the kernel, or `None` where nothing does.
    pub fn kernel_faults(&self) -> Option<KernelFaults> {
        let userfaultfd = &self.calls.userfaultfd;
        if userfaultfd.device.works() {
            Some(KernelFaults::Device)
        } else if !userfaultfd.syscall.works() {
            None
        } else if self.files.process.cap_sys_ptrace == Some(true) {
            Some(KernelFaults::Capability)
        } else {
            Some(KernelFaults::Sysctl)
        }
    }

    /// The userfaultfd features offered; none where there is no userfaultfd.
    pub fn userfaultfd_features(&self) -> Features {
        self.calls.userfaultfd.features.unwrap_or(Features(0))
    }
}

impl Userfaultfd {
    pub(super) fn try_all() -> Self {
        let ways = [
            from_device(),
            from_syscall(UserfaultfdFlags::empty()),
            from_syscall(UserfaultfdFlags::from_bits_retain(UFFD_USER_MODE_ONLY)),
        ];
        let features = ways
            .iter()
            .flatten()
            .find_map(|descriptor| features(descriptor.as_fd()).ok());
        let [device, syscall, syscall_user_mode] = ways.each_ref().map(Trial::from);
        Self {
            device,
            syscall,
            syscall_user_mode,
            features,
        }
    }
}

fn from_device() -> Result<OwnedFd, Refused> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    let device = open(
        "/dev/userfaultfd",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(refused("open /dev/userfaultfd"))?;
    // SAFETY: the argument is a number, not a pointer.
    let returned = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            USERFAULTFD_IOC_NEW as libc::Ioctl,
            flags.bits(),
        )
    };
    let descriptor = checked(returned).map_err(refused("ioctl(USERFAULTFD_IOC_NEW)"))?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn from_syscall(flags: UserfaultfdFlags) -> Result<OwnedFd, Refused> {
    let flags = flags | UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // SAFETY: the descriptor can only do harm to ranges registered with it, and none is.
    unsafe { rustix::mm::userfaultfd(flags) }.map_err(refused("userfaultfd"))
}

fn features(descriptor: BorrowedFd<'_>) -> Result<Features, Refused> {
    let mut api = UffdioApi {
        api: UFFD_API,
        ..UffdioApi::default()
    };
    // SAFETY: the request reads and writes one `struct uffdio_api`, which is what it is given.
    let returned = unsafe {
        libc::ioctl(
            descriptor.as_raw_fd(),
            UFFDIO_API as libc::Ioctl,
            &raw mut api,
        )
    };
    checked(returned).map_err(refused("ioctl(UFFDIO_API)"))?;
    Ok(Features(api.features))
}
