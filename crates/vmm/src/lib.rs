//! The reference VMM: a small x86-64 virtual machine on KVM that embeds pagemend exactly as any
//! other VMM would, boots a stock Linux kernel, and goes on when its memory fails.
//!
//! It has no recovery logic of its own. What it shows is where the library is called: guest memory
//! in [`memory`](crate::Ram), the run loop in `vcpu`, reset and pause in [`Vm`].

#![cfg(target_arch = "x86_64")]

mod acpi;
pub mod api;
mod boot;
mod chipset;
mod config;
mod control;
mod cpu;
mod devices;
mod events;
pub mod guests;
mod kick;
mod layout;
mod memory;
pub mod seccomp;
mod tell;
mod vcpu;
mod vm;

pub use boot::BootError;
pub use chipset::ChipsetError;
pub use config::{
    ConfigError, Console, CpuModel, MAX_VCPUS, MemoryConfig, Payload, UnknownAnswer, UnknownModel,
    Untold, VmConfig,
};
pub use events::{FailureAction, Flags, Hub, Recipient, SCHEMA, VmEvent, What};
pub use kick::KickError;
pub use memory::{Ram, RamError};
pub use pagemend_guest::route::{Capability, Notify};
pub use tell::TellError;
pub use vm::{End, Phase, Vm, VmError};
