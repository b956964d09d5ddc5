//! Calling a vCPU out of the guest, without a moment in which the call could be missed: the signal
//! is blocked everywhere but inside `KVM_RUN`, so one that comes before it ends it at once.

use kvm_bindings::{KVMIO, kvm_signal_mask};
use kvm_ioctls::VcpuFd;
use libc::c_int;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;
use vmm_sys_util::signal::{self, SIGRTMIN};

ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, kvm_signal_mask);

/// `struct kvm_signal_mask` with the bytes that follow it: a set of the kernel's 64 signals.
#[repr(C)]
struct SignalMask {
    len: u32,
    blocked: [u8; 8],
}

const _: () = assert!(size_of::<SignalMask>() == size_of::<kvm_signal_mask>() + 8);

/// Why the calling thread's vCPU could not be made to hear a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KickError {
    /// The signal cannot be blocked.
    #[error("the signal that calls a vCPU out of the guest cannot be blocked: {0:?}")]
    Signal(signal::Error),
    /// KVM does not take the mask.
    #[error("KVM does not take the signals that end KVM_RUN")]
    Mask(#[source] kvm_ioctls::Error),
}

/// The signal that calls a vCPU's thread out of the guest.
pub(crate) fn number() -> c_int {
    SIGRTMIN()
}

/// Has `KVM_RUN` of `vcpu` end when the calling thread, which runs it, is called.
pub(crate) fn listen(vcpu: &VcpuFd) -> Result<(), KickError> {
    match signal::block_signal(number()) {
        Ok(()) | Err(signal::Error::SignalAlreadyBlocked(_)) => {}
        Err(error) => return Err(KickError::Signal(error)),
    }
    let blocked = signal::get_blocked_signals().map_err(KickError::Signal)?;
    let blocked = blocked.into_iter().filter(|signal| *signal != number());
    let blocked = blocked.fold(0u64, |set, signal| set | 1 << (signal - 1));
    let mask = SignalMask {
        len: 8,
        blocked: blocked.to_le_bytes(),
    };
    // SAFETY: the kernel reads `len` and as many bytes as that says, which are there.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) };
    if result < 0 {
        return Err(KickError::Mask(errno::Error::last()));
    }
    Ok(())
}

/// Forgets calls that the calling thread has heard by now.
pub(crate) fn heard() {
    if let Err(error) = signal::clear_signal(number()) {
        // The next entry into the guest ends at once, and it is tried again then.
        tracing::warn!(?error, "a call to a vCPU stays pending");
    }
}
