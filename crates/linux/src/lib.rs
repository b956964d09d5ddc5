//! The engine on Linux.

pub mod abi;
pub mod probe;
