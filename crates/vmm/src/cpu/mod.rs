//! What a vCPU is: what it says of itself, how it starts, and how it starts again.

pub(crate) mod cpuid;
pub(crate) mod registers;
