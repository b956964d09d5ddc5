//! Mends on this machine: real SIGBUS, real memory, emulated errors.

mod guest;
mod healthy;
