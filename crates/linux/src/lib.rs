//! The engine on Linux.

pub mod abi;
