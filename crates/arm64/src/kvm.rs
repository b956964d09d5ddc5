//! What KVM takes and gives (include/uapi/linux/kvm.h and arch/arm64/include/uapi/asm/kvm.h of
//! Linux 6.19).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::esr::SError;

/// `KVM_CAP_VCPU_EVENTS`: the two ioctls are there.
pub const CAP_VCPU_EVENTS: u32 = 41;
/// `KVM_CAP_ARM_INJECT_SERROR_ESR`: an SError can be given a syndrome. The host's processor has the RAS
/// extension.
pub const CAP_ARM_INJECT_SERROR_ESR: u32 = 158;
/// `KVM_CAP_ARM_INJECT_EXT_DABT`: an external data abort can be injected.
pub const CAP_ARM_INJECT_EXT_DABT: u32 = 178;
/// `KVM_CAP_ARM_SEA_TO_USER`: with it enabled on the VM, `KVM_RUN` ends with [`EXIT_ARM_SEA`] where the
/// host could not handle an abort. Linux 6.19.
pub const CAP_ARM_SEA_TO_USER: u32 = 245;
/// `KVM_EXIT_ARM_SEA`: [`ArmSea`] is in `kvm_run`.
pub const EXIT_ARM_SEA: u32 = 41;

/// `KVM_GET_VCPU_EVENTS`, a vCPU's ioctl.
pub const GET_VCPU_EVENTS: u32 = ioctl(READ, 0x9f, size_of::<VcpuEvents>());
/// `KVM_SET_VCPU_EVENTS`, a vCPU's ioctl.
pub const SET_VCPU_EVENTS: u32 = ioctl(WRITE, 0xa0, size_of::<VcpuEvents>());

const WRITE: u32 = 1;
const READ: u32 = 2;
/// `KVMIO`.
const KVM: u32 = 0xae;

/// The number of an ioctl (include/uapi/asm-generic/ioctl.h).
const fn ioctl(direction: u32, number: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | KVM << 8 | number
}

// As C programs see them on arm64.
const _: () = assert!(GET_VCPU_EVENTS == 0x8040_ae9f);
const _: () = assert!(SET_VCPU_EVENTS == 0x4040_aea0);

/// `struct kvm_vcpu_events` of arm64: what is to be injected when the vCPU runs next.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VcpuEvents {
    /// 1: an SError is pending.
    pub serror_pending: u8,
    /// 1: with the syndrome below.
    pub serror_has_esr: u8,
    /// 1: an external data abort is pending. Read back it is always 0, for KVM injects it at once.
    pub ext_dabt_pending: u8,
    /// Zero.
    pub pad: [u8; 5],
    /// The SError's syndrome without its class: bits 24:0. KVM refuses others with EINVAL.
    pub serror_esr: u64,
    /// Zero.
    pub reserved: [u32; 12],
}

const _: () = assert!(size_of::<VcpuEvents>() == 64);

impl VcpuEvents {
    /// A synchronous external abort: the access that touched the address has failed. The guest sees a
    /// syndrome and a fault address that KVM makes up, with FAR not valid where it does not know the
    /// address. Needs [`CAP_ARM_INJECT_EXT_DABT`].
    pub fn external_data_abort() -> Self {
        Self {
            ext_dabt_pending: 1,
            ..Self::default()
        }
    }

    /// An SError with the syndrome that KVM makes up, which a guest takes as fatal.
    pub fn serror() -> Self {
        Self {
            serror_pending: 1,
            ..Self::default()
        }
    }

    /// An SError with this syndrome. Needs [`CAP_ARM_INJECT_SERROR_ESR`]; else KVM refuses it with
    /// EINVAL.
    pub fn serror_with(syndrome: SError) -> Self {
        Self {
            serror_has_esr: 1,
            serror_esr: syndrome.iss(),
            ..Self::serror()
        }
    }

    /// What the ioctl takes.
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// What `kvm_run` holds at [`EXIT_ARM_SEA`]: an abort that the host could not handle.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct ArmSea {
    /// Bit 0, `KVM_EXIT_ARM_SEA_FLAG_GPA_VALID`: the guest physical address is known.
    pub flags: u64,
    /// The syndrome, without what is the host's own business.
    pub esr: u64,
    /// The guest virtual address; valid unless the syndrome's FnV bit is set.
    pub gva: u64,
    /// The guest physical address, in bytes: that of the page.
    pub gpa: u64,
}

const _: () = assert!(size_of::<ArmSea>() == 32);

impl ArmSea {
    const GPA_VALID: u64 = 1;

    /// The guest physical address, in bytes; `None` where KVM does not know it.
    pub fn gpa(&self) -> Option<u64> {
        (self.flags & Self::GPA_VALID != 0).then_some(self.gpa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::esr::SErrorState;

    #[test]
    fn an_abort_is_one_byte_at_its_place() {
        let events = VcpuEvents::external_data_abort();
        let mut expected = [0; 64];
        expected[2] = 1;
        assert_eq!(events.bytes(), expected);
    }

    #[test]
    fn an_serrors_syndrome_has_no_class() {
        let events = VcpuEvents::serror_with(SError::Known(SErrorState::Recoverable));
        assert_eq!((events.serror_pending, events.serror_has_esr), (1, 1));
        assert_eq!(events.serror_esr >> 25, 0);
        assert_eq!(events.bytes()[8..16], events.serror_esr.to_le_bytes());
    }

    #[test]
    fn an_address_that_kvm_does_not_know_is_none() {
        let exit = ArmSea {
            gpa: 0x1000,
            ..ArmSea::default()
        };
        assert_eq!(exit.gpa(), None);
        assert_eq!(ArmSea { flags: 1, ..exit }.gpa(), Some(0x1000));
    }
}

/// On arm64 itself the kernel's own structures, as generated from its headers, are at hand.
#[cfg(all(test, target_arch = "aarch64"))]
mod kernel {
    use core::mem::offset_of;

    use kvm_bindings as kernel;

    use super::*;

    const _: () = assert!(size_of::<VcpuEvents>() == size_of::<kernel::kvm_vcpu_events>());
    const _: () =
        assert!(offset_of!(VcpuEvents, reserved) == offset_of!(kernel::kvm_vcpu_events, reserved));
    const _: () = assert!(CAP_ARM_INJECT_EXT_DABT == kernel::KVM_CAP_ARM_INJECT_EXT_DABT);
    const _: () = assert!(CAP_ARM_INJECT_SERROR_ESR == kernel::KVM_CAP_ARM_INJECT_SERROR_ESR);
    const _: () = assert!(CAP_VCPU_EVENTS == kernel::KVM_CAP_VCPU_EVENTS);
}
