//! Why a demonstration cannot be held: each says what failed, on what, and what to do.

use std::io;

use pagemend::guard::GuardError;
use pagemend::{BuildError, InjectError, MemoryError};

use crate::pool::PoolStays;
use crate::size::Size;

#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    #[error("--memory: a guest without memory has nothing to lose")]
    NoMemory,
    #[error("--errors: {errors} errors do not fit into {frames} frames of 4 KiB")]
    TooManyErrors { errors: u64, frames: u64 },
    #[error("--threads: {threads} threads cannot share {frames} frames of 4 KiB")]
    TooManyThreads { threads: u64, frames: u64 },
    #[error("there is no such guest memory")]
    Memory(#[from] MemoryError),
    #[error(
        "{needed} of memory are needed, with replacements for the pages that will fail and an \
         eighth to spare, and the machine has {available} to give: use a smaller --memory"
    )]
    TooLarge { needed: Size, available: Size },
    #[error(transparent)]
    PoolStays(#[from] PoolStays),
    #[error("growing the pool of huge pages is left to --page-size")]
    PoolNotGrown(#[source] MemoryError),
    #[error(
        "this host has no transparent huge pages for shared memory: `pagemend doctor` says why"
    )]
    NoTransparentHugePages,
    #[error("--inject madvise: {why}; --inject emulated needs neither")]
    NoRealErrors { why: &'static str },
    #[error("the mender cannot start; `pagemend doctor` says what this host lacks")]
    Start(#[from] BuildError),
    #[error("an error could not be injected")]
    Inject(#[from] InjectError),
    #[error("a worker could not reach guest memory")]
    Access(#[from] GuardError),
    #[error("the output cannot be written")]
    Output(#[from] io::Error),
    #[error("{what}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}
