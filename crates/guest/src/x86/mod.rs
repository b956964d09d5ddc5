//! Machine checks of x86: bits, records, and what they say.
//!
//! Pure values. "SDM" is Intel's Software Developer's Manual, volume 3B, chapter "Machine-Check
//! Architecture"; "APM" is AMD's Architecture Programmer's Manual, volume 2, chapter 9; names of
//! bits are those of Linux's `arch/x86/include/asm/mce.h`, or of the SDM where Linux has none.

pub mod bits;
mod explain;
mod fields;
mod machine_check;
mod written;

pub use explain::{Explanation, Severity, explain};
pub use fields::AddressMode;
pub use machine_check::{AoSignal, MachineCheck, Vendor};
pub use written::{Written, machine_checks};
