//! The engine on Linux.

pub mod guard;
