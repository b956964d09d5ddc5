//! How a guest is told that its memory failed.
//!
//! [`x86`] has machine checks as values: which bits a processor would set, and what a set of them
//! means. [`deliver`] has the order and the moment: what is told at once, what waits, and what must
//! not be told now because it would shut the guest down. [`ghes`] has the other way, records in
//! memory that a guest polls, on any architecture; [`route`] chooses between the two. With the feature `kvm`, `kvm` carries it
//! out on a rust-vmm vCPU, and joins it with the vCPU's thread.
//!
//! Nothing here maps memory or decides what is lost: it begins where the ledger has a frame.

pub mod deliver;
pub mod ghes;
#[cfg(all(feature = "kvm", target_arch = "x86_64"))]
pub mod kvm;
mod queue;
pub mod route;
pub mod x86;
