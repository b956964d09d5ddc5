//! Guarded access to guest memory: an error instead of a SIGBUS.
//!
//! # Use case
//!
//! A VMM's own code reads and writes guest memory all the time: descriptor rings, disk sectors,
//! page tables. When such an access meets a lost frame, Linux sends SIGBUS to the thread, and the
//! default action kills every guest the process runs. A guarded access returns
//! [`GuardError::Poisoned`] with the guest physical address instead, and the device model fails
//! that one request.
//!
//! # How it works
//!
//! The instructions that touch guest memory are a small stretch of assembly, one file for each
//! architecture. When one of them takes a SIGBUS in guest memory, the thread first waits for the
//! mender's verdict:
//!
//! - *mended*: the handler returns and the same instruction runs again. The caller notices nothing.
//! - *lost at this address*: the handler moves the thread to a landing pad behind the access, which
//!   returns to the caller with the number of bytes done.
//!
//! Copies are fast in large blocks and exact to the byte at a fault: the landing pad of the block
//! copy is the byte-exact copy of what is left.
//!
//! # How to start
//!
//! Describe each range of guest memory with a [`GuestRegion`], or hand `GuardedRegion`s to code
//! that is written against rust-vmm's `vm-memory`. There is nothing to switch on here: the landing
//! happens once the process has a mender. Without one, a SIGBUS has the effect it has in any
//! program.
//!
//! # Example
//!
//! ```
//! use pagemend_core::address::{Gpa, GpaRange, Hva};
//! use pagemend_linux::guard::{GuardError, GuestRegion};
//!
//! # let memory = unsafe {
//! #     libc::mmap(
//! #         std::ptr::null_mut(),
//! #         0x4000,
//! #         libc::PROT_READ | libc::PROT_WRITE,
//! #         libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
//! #         -1,
//! #         0,
//! #     )
//! # };
//! // `memory` is where the VMM mapped 16 KiB of guest memory.
//! let gpas = GpaRange::new(Gpa::new(0x8000_0000), 0x4000).unwrap();
//! let base = Hva::new(memory.expose_provenance() as u64);
//! // SAFETY: the mapping lives as long as the program, and only the guest and this region use it.
//! let region = unsafe { GuestRegion::new(gpas, base) }.unwrap();
//!
//! region.write(Gpa::new(0x8000_1000), b"descriptor")?;
//! let mut request = [0; 10];
//! match region.read(Gpa::new(0x8000_1000), &mut request) {
//!     Ok(()) => assert_eq!(&request, b"descriptor"),
//!     Err(GuardError::Poisoned { gpa, .. }) => eprintln!("request failed: {gpa} is lost"),
//!     Err(error) => return Err(error),
//! }
//! # Ok::<(), GuardError>(())
//! ```
//!
//! # Safety guarantees
//!
//! - The memory may be lost before or during an access, be replaced by a mend, and be written by
//!   vCPUs and devices at any time. A copy of memory that others write may be torn; a load or store
//!   of 1, 2, 4 or 8 aligned bytes is not.
//! - `done` bytes are complete, and nothing behind them was written (the exceptions are told at
//!   [`Fault::done`]). A refused store wrote nothing.
//! - An access waits for a mend if there is one, and for nothing else: it takes no lock.
//! - Faults of other kinds keep their meaning. An unmapped address is a SIGSEGV as ever, and a
//!   SIGBUS outside guest memory goes where it went before.
//!
//! Plain access through a pointer or a `VolatileSlice` is *not* guarded: at a lost frame it goes to
//! the handler that the process had before. That matters for `vm-memory`; see `GuardedMemory`.
//!
//! # Performance
//!
//! On healthy memory the guard costs a function call: no table, no lock, no thread-local. On x86-64
//! with fast string operations, copies of 4 KiB and more run at the speed of `memcpy`. Shorter
//! ones, and all where the processor lacks them, use a block copy that is plainer than the C
//! library's. A fault costs a signal, in a block copy two.
//! `cargo bench -p pagemend-linux --bench guard` compares on your machine.

mod access;
mod landing;
mod region;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(feature = "vm-memory")]
mod rust_vmm;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("guarded access is written for x86-64 and arm64");

pub use access::{Fault, Scalar, try_compare_exchange, try_copy, try_load, try_store, try_touch};
pub(crate) use landing::land;
pub use region::{GuardError, GuestRegion};
#[cfg(feature = "vm-memory")]
pub use rust_vmm::{GuardedMemory, GuardedRegion, poisoned_gpa};
