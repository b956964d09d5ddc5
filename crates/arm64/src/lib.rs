//! Telling an arm64 guest of lost memory: what a VMM hands to KVM, as values and bytes.
//!
//! A guest that touches lost memory gets a *synchronous external abort* (SEA); one whose error cannot be
//! tied to an access gets an *SError*. The VMM injects either with `KVM_SET_VCPU_EVENTS` ([`VcpuEvents`]);
//! the address that was lost goes beside it in a GHESv2 record, which is notified by SEA and which the
//! crate `pagemend-cper` writes. From Linux 6.19 on KVM hands aborts that the host could not handle to
//! the VMM ([`ArmSea`]), with the syndrome and the guest physical address.
//!
//! Everything here is values: it compiles and is tested on any architecture. No VMM of this project runs
//! arm64 guests.
//!
//! ```
//! use pagemend_arm64::{ArmSea, Syndrome, VcpuEvents};
//!
//! // KVM_RUN has ended with KVM_EXIT_ARM_SEA, and this is what lies in kvm_run:
//! let exit = ArmSea { flags: 1, esr: 0x9200_0010, gva: 0, gpa: 0x4000_2000 };
//! let Syndrome::DataAbort(abort) = Syndrome::decode(exit.esr) else { unreachable!() };
//! assert!(abort.fault.is_external());
//! assert_eq!(exit.gpa(), Some(0x4000_2000));
//! // The frame is lost: the guest is told by an abort of its own.
//! let events = VcpuEvents::external_data_abort();
//! assert_eq!(events.bytes()[2], 1);
//! ```
#![no_std]
#![deny(unsafe_code)]

mod esr;
mod kvm;

pub use esr::{Abort, ErrorState, Fault, SError, SErrorState, Syndrome};
pub use kvm::{
    ArmSea, CAP_ARM_INJECT_EXT_DABT, CAP_ARM_INJECT_SERROR_ESR, CAP_ARM_SEA_TO_USER,
    CAP_VCPU_EVENTS, EXIT_ARM_SEA, GET_VCPU_EVENTS, SET_VCPU_EVENTS, VcpuEvents,
};
