//! Machine checks through KVM, for VMMs on kvm-ioctls.
//!
//! ```no_run
//! use std::sync::Arc;
//! use kvm_ioctls::{Kvm, VcpuExit};
//! use pagemend_guest::deliver::{Config, DEFAULT_BANKS, MachineChecks};
//! use pagemend_guest::kvm::{self, GuestVcpu, Kick, Turn};
//! use pagemend_guest::x86::AoSignal;
//! use pagemend_linux::Pagemend;
//!
//! # fn kick(_: Kick) {}
//! # fn device(_: VcpuExit<'_>) {}
//! # fn run(pagemend: Arc<Pagemend>) -> Result<(), Box<dyn std::error::Error>> {
//! # let (kvm, vcpus) = (Kvm::new()?, 1);
//! # let vm = kvm.create_vm()?;
//! // Before the guest boots: a processor whose guest recovers.
//! let mut cpuid = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?;
//! let vendor = kvm::cpuid::vendor(&cpuid).ok_or("neither Intel nor AMD")?;
//! kvm::cpuid::let_recover(&mut cpuid, vendor)?;
//! let supported = kvm::mce_cap_kept(&kvm)?;
//! let mcg_cap = kvm::mcg_cap(vendor, supported, DEFAULT_BANKS);
//! let signal = AoSignal::best(vendor, mcg_cap);
//! let recovers = vendor.recovers(mcg_cap);
//! let config = Config { vendor, signal, recovers, banks: DEFAULT_BANKS, vcpus, limit: 64 };
//! let checks = MachineChecks::new(config);
//! kvm::watch(&vm, checks.config())?;
//!
//! // In a listener of the mender, for each `Step::Record`. What was touched is told before it is
//! // its turn in the line, on the vCPU that touched it.
//! # let lost = vec![];
//! if checks.lost(lost).added > 0 { kick(Kick::Others) }
//!
//! // On each vCPU's thread:
//! let vcpu = vm.create_vcpu(0)?;
//! vcpu.set_cpuid2(&cpuid)?;
//! let mcg_cap = kvm::setup_vcpu(&vcpu, &cpuid, supported, DEFAULT_BANKS)?;
//! let mut vcpu = GuestVcpu::new(vcpu, mcg_cap, pagemend, checks.teller(0), kick)?;
//! loop {
//!     match vcpu.turn(|exit| device(exit))? {
//!         Turn::Refused { gpa, obstacle } => break, // pause, reset or stop the guest
//!         Turn::NotOurs { hva } => break,           // an error of the VMM's own
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`GuestVcpu`] is all of it. A run loop of the VMM's own uses [`KvmVcpu`] with a
//! [`Teller`](crate::deliver::Teller), answers the exits of [`watch`] with [`register_read`] and
//! [`register_written`], and has to see to three things itself:
//!
//! - KVM_SET_REGS drops an exception that has not been delivered (`__set_regs`,
//!   `arch/x86/kvm/x86.c`), and thus a machine check: no registers are to be set between
//!   [`Teller::before_run`](crate::deliver::Teller::before_run) or
//!   [`Teller::touched`](crate::deliver::Teller::touched) and `KVM_RUN`.
//! - An MMIO exit at an address of guest memory is no device, but lost memory in an instruction
//!   that KVM emulates.
//! - A guest without local machine checks waits one second for all its vCPUs.

pub mod cpuid;
mod ioctls;
mod memory;
mod run;
mod setup;
mod vcpu;
mod watch;

pub use ioctls::{mce_cap_supported, set_mce, setup_mce};
pub use run::{GuestVcpu, Kick, RunError, Turn};
pub use setup::{SetupError, mce_cap_kept, mcg_cap, setup_vcpu};
pub use vcpu::{KvmVcpu, RegisterError};
pub use watch::{register_read, register_written, watch};
