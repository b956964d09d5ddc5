//! Guarded memory for device models written against rust-vmm's `vm-memory`.

mod bytes;
mod error;
mod memory;
mod region;
mod transfer;

pub use error::poisoned_gpa;
pub use memory::GuardedMemory;
pub use region::GuardedRegion;
