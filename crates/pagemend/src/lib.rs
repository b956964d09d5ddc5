//! Memory-failure recovery for virtual machines on huge pages.
//!
//! One uncorrectable DRAM error destroys 64 bytes; Linux then takes away the 2 MiB or 1 GiB page
//! around them. pagemend saves the healthy bytes, swaps in new memory under the same addresses,
//! marks only the lost 4 KiB, and tells the VMM exactly that. Everyone else keeps running.
//!
//! # In a VMM
//!
//! Describe the memory, start, and handle "lost" where the vCPU's run loop handles exits:
//!
//! ```
//! use std::sync::Arc;
//! use pagemend::{Gpa, GuestMemory, MemoryKind, Pagemend, RegionConfig, VcpuFault};
//!
//! # fn kvm_run() -> i32 { 0 }
//! # fn inject_machine_check(_: Gpa) {}
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The VMM's own memory goes in with `RegionConfig::new(name, gpa, pointer, len).file(fd, 0)`.
//! let memory = Arc::new(GuestMemory::new(MemoryKind::Shmem, 4 << 20)?);
//! let ram = RegionConfig::of("ram", Gpa::new(0), Arc::clone(&memory))?;
//! let pagemend = Pagemend::builder()
//!     .region(ram)
//!     .listen("log", |event| println!("{event:?}"))
//!     .start()?;
//!
//! // On each vCPU's thread:
//! let mut vcpu = pagemend.vcpu_thread()?;
//! let exit = vcpu.run(|| kvm_run());
//! match vcpu.take_fault() {
//!     // KVM_EXIT_MMIO at guest memory is no device: it goes to `take_fault_at` first.
//!     None => { /* an ordinary exit, in `exit` */ }
//!     Some(VcpuFault::Mended) => { /* run the vCPU again */ }
//!     Some(VcpuFault::Lost { gpa }) => inject_machine_check(gpa),
//!     Some(VcpuFault::NotOurs { hva }) => panic!("no memory at {hva}"),
//! }
//!
//! // In device models, which must not die of a lost frame either:
//! let guest = pagemend.memory("ram").expect("a region has this name");
//! let mut descriptor = [0; 16];
//! guest.read(Gpa::new(0x1000), &mut descriptor)?;
//!
//! // Around kernel I/O that pins guest memory, so that a mend waits for what is in flight:
//! let lease = pagemend.lease(guest.range())?;
//! drop(lease);
//! # Ok(())
//! # }
//! ```
//!
//! # What it does to the process
//!
//! - It handles SIGBUS. What was installed before gets every signal that is no memory failure in
//!   guest memory. A handler that is installed later has to chain to the one that it replaces.
//! - One thread is added, `pagemend`, with SIGBUS blocked: it is the one that the kernel tells of
//!   errors early. No other thread may set `PR_MCE_KILL_EARLY`.
//! - Until memory fails there is nothing else: no registration, no second mapping, no smaller pages.
//!
//! # Who must wait, and who must not
//!
//! | who | what it does at a failure |
//! |---|---|
//! | a vCPU | `KVM_RUN` ends with EINTR; [`VcpuThread::take_fault`] waits and says what to do |
//! | a vCPU whose instruction KVM emulates | `KVM_RUN` ends with `KVM_EXIT_MMIO` at an address of guest memory; [`VcpuThread::take_fault_at`] waits and says what to do |
//! | a device model that copies | [`GuestRegion`] waits, then succeeds or gives an error |
//! | a device that hands memory to the kernel | holds a [`Lease`]; the mend waits for it |
//! | a back end in another process, a VFIO device | is registered as a [consumer](RegionConfig::consumer) |
//! | any other thread | waits in the signal handler and reads again; at a lost frame it gets the signal that it would have got without pagemend |
//!
//! Who waits for a page above 2 MiB waits for the 2 MiB that he touched: the rest comes back in the
//! background ([`Filling`]). Leases wait until all of it is back.
//!
//! A frame that is lost stays lost for this process alone: the marks are in its page tables. They
//! do not pass to a child of fork(2), so the child does not inherit the frame: touching it there is
//! a SIGSEGV.
//!
//! A thread that can meet a fault needs an alternate signal stack, if it has one, of at least
//! `AT_MINSIGSTKSZ` and 2 KiB; twice that where a SIGBUS handler of the VMM's own, which is called
//! for what is no memory failure, may itself touch guest memory.
//!
//! # At a reset
//!
//! With all vCPUs stopped and devices quiet, [`Pagemend::reset`] makes lost memory usable again, under
//! the same addresses, and clears the ledger. Healthy bytes stay.
//!
//! # Healing
//!
//! Around a lost frame 2 MiB are 4 KiB pages, because a huge page has no mark for a single frame.
//! [`Pagemend::heal`], or [`RegionConfig::heal`] by itself, makes a huge page of them under the running
//! guest. Then the lost frame can be read, as [`FILL`], and written: it is the guest that keeps off
//! it, and [`Enforcement`] in the ledger says so. It is for guests that do.
//!
//! # Features
//!
//! `vm-memory` (on by default): guarded regions behind the traits of rust-vmm's vm-memory.
//!
//! `guest`: how an x86 guest is told, in the module `guest`: machine checks as values, what waits
//! until the guest can take it, and what it must not be told now. `kvm`: the same through
//! kvm-ioctls, with a vCPU's run loop.

pub use pagemend_core::address::{
    Address, AddressRange, FRAME_SIZE, Gpa, GpaRange, Hva, HvaRange, PageSize,
};
pub use pagemend_core::event::{Event, Step, Totals};
pub use pagemend_core::fault::Verdict;
pub use pagemend_core::host::FILL;
pub use pagemend_core::ledger::{Cause, Enforcement, Entry, Generation, Ledger, Loss};
pub use pagemend_core::map::{Backing, FileId, Location, MemoryMap, Region, Segment, Source};
pub use pagemend_core::mender::{Healed, Progress, Reset, Unhealed};
pub use pagemend_core::plan::{Action, Capabilities, Reason};
pub use pagemend_core::policy::{Consumer, Filling, Heal, Policy, UnknownPolicy};
pub use pagemend_core::time::Timestamp;
#[cfg(feature = "guest")]
pub use pagemend_guest as guest;
pub use pagemend_linux::guard::{self, GuardError, GuestRegion};
#[cfg(feature = "vm-memory")]
pub use pagemend_linux::guard::{GuardedMemory, GuardedRegion, poisoned_gpa};
pub use pagemend_linux::{
    BuildError, Builder, CorruptPfn, Emulated, GuestMemory, Inject, InjectError, Lease, LeaseError,
    Madvise, MemoryError, MemoryKind, MenderGone, Origin, Pagemend, RegionConfig, RegionError,
    TooManyVcpus, UffdError, VcpuFault, VcpuThread, available_memory, kernel_default, probe,
    resize_pool,
};
