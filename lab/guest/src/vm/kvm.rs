//! What KVM can give a guest to recover with, asked of the kernel rather than of a VMM.

use super::wish::Model;
use anyhow::{Context, Result};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `_IOR(KVMIO, 0x9d, __u64)` (include/uapi/linux/kvm.h).
const KVM_X86_GET_MCE_CAP_SUPPORTED: libc::c_ulong = 0x8008_ae9d;
/// `MCG_SER_P` (arch/x86/include/asm/mce.h): software can recover from uncorrected errors.
const MCG_SER_P: u64 = 1 << 24;

/// Whether a Linux guest on processors of this model can recover. AMD's need CPUID bits alone, which any VMM can set.
pub(super) fn recovers(model: Model) -> Result<bool> {
    match model {
        Model::Amd => Ok(true),
        Model::Intel => Ok(machine_checks()? & MCG_SER_P != 0),
    }
}

fn machine_checks() -> Result<u64> {
    let kvm = File::open("/dev/kvm").context("cannot open /dev/kvm")?;
    let mut supported = 0u64;
    // SAFETY: the kernel writes one word, which is there.
    let done = unsafe {
        libc::ioctl(
            kvm.as_raw_fd(),
            KVM_X86_GET_MCE_CAP_SUPPORTED,
            &raw mut supported,
        )
    };
    match done {
        0.. => Ok(supported),
        _ => {
            Err(io::Error::last_os_error()).context("KVM does not say which machine checks it has")
        }
    }
}
