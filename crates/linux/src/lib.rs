//! The engine on Linux.
