//! Claims about guarded access, on memory whose faults are real signals.

mod copies;
mod regions;
mod scalars;
