//! Mends on this machine: real SIGBUS, real memory, emulated errors.
#![allow(clippy::unwrap_used, reason = "the harness fails as a test does")]

mod altstack;
mod backings;
mod bad_input;
mod chain;
mod child;
mod confined;
mod early;
mod forked;
mod gigantic;
mod guest;
mod heal;
mod healthy;
mod kvm;
mod leases;
mod lifecycle;
mod lost;
mod machine;
mod on_demand;
mod own_thread;
mod policies;
mod repeated;
mod reset;
mod settings;
mod smaps;
mod storm;
mod untouched;
mod vcpu;
mod wait;
