//! Machine checks through KVM, for VMMs on kvm-ioctls.
//!
//! Before the guest boots: [`setup_vcpu`] after the vCPU has its CPUID, which [`cpuid`] makes one
//! of a processor that recovers. Where KVM can, [`watch`] makes the guest's accesses to
//! machine-check registers exits. Then either [`GuestVcpu`] runs the vCPU with everything that
//! belongs to it, or a run loop of the VMM's own uses [`KvmVcpu`] with a
//! [`Teller`](crate::deliver::Teller).

pub mod cpuid;
mod ioctls;
mod memory;
mod run;
mod setup;
mod vcpu;
mod watch;

pub use ioctls::{mce_cap_supported, set_mce, setup_mce};
pub use run::{GuestVcpu, Kick, RunError, Turn};
pub use setup::{SetupError, mcg_cap, setup_vcpu};
pub use vcpu::{KvmVcpu, RegisterError};
pub use watch::{register_read, register_written, watch};
