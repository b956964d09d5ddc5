//! Claims about guarded access, on memory whose faults are real signals.

mod copies;
mod regions;
#[cfg(feature = "vm-memory")]
mod rust_vmm;
mod scalars;
