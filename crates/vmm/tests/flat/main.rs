//! Flat guests of a few instructions on this machine's KVM.

mod machine;
mod steer;
mod touch;
