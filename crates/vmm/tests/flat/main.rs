//! Flat guests of a few instructions on this machine's KVM.
#![allow(clippy::unwrap_used, reason = "the harness fails as a test does")]

mod heal;
mod machine;
mod memcycler;
mod steer;
mod touch;
