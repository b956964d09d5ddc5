//! Mends on this machine: real SIGBUS, real memory, emulated errors.
#![allow(clippy::unwrap_used, reason = "the harness fails as a test does")]

mod guest;
mod healthy;
