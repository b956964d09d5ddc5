//! Why nothing could be measured: each says what failed, on what, and what to do.

use std::io;

use pagemend::guard::GuardError;
use pagemend::{BuildError, InjectError, MemoryError};
use pagemend_vmm::VmError;

use crate::pool::PoolStays;
use crate::size::Size;

#[derive(Debug, thiserror::Error)]
pub(super) enum BenchError {
    #[error("{option}: {why}")]
    Option { option: &'static str, why: String },
    #[error(
        "{needed} of memory are needed, an eighth to spare included, and the machine has \
         {available} to give: take a smaller --memory or another --page-size"
    )]
    TooLarge { needed: Size, available: Size },
    #[error("there is no room for huge pages of any size: {why}")]
    NoRoom { why: String },
    #[error(transparent)]
    PoolStays(#[from] PoolStays),
    #[error("there is no such guest memory")]
    Memory(#[from] MemoryError),
    #[error("the mender cannot start; `pagemend doctor` says what this host lacks")]
    Start(#[from] BuildError),
    #[error("the virtual machine cannot be run")]
    Machine(#[from] VmError),
    #[error("the guest could not go on: {0}")]
    Guest(String),
    #[error("a page could not be mended: {why}")]
    NotMended { why: String },
    #[error("pages that were mended were not healed: {why}")]
    NotHealed { why: String },
    #[error("an error could not be injected")]
    Inject(#[from] InjectError),
    #[error("guest memory could not be reached")]
    Access(#[from] GuardError),
    #[error("{wrong} values that were read back were wrong: this is a bug, and no measurement")]
    Wrong { wrong: u64 },
    #[error("{what}")]
    System {
        what: &'static str,
        source: io::Error,
    },
    #[error("interrupted")]
    Interrupted,
}

impl BenchError {
    /// For `map_err` of what the system refuses.
    pub(super) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
