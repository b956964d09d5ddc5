//! What can be wrong with an engine: each variant is a broken invariant of the design.

use std::fmt;

use pagemend_core::address::{Gpa, GpaRange};

use super::guest::Truth;

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// 1: a read gave what was not written last.
    SilentCorruption { gpa: Gpa, read: u64, truth: Truth },
    /// 2: a frame that could be read, or was not involved, was told lost or faults.
    HealthyByteLost { gpa: Gpa },
    /// 3: a frame is lost and the one who met it goes on, but nobody was told.
    LossNotTold { gpa: Gpa },
    /// 3: a frame was told lost twice, or one that is not part of the page.
    ToldWrongly { gpa: Gpa },
    /// 3: the ledger says other than what was told.
    LedgerDiffers,
    /// 3: a frame was told to be fresh memory and is what it was.
    NotRenewed { gpa: Gpa },
    /// 4: a page was swapped under a consumer that stays with the old memory.
    TwoViews { page: GpaRange },
    /// 5: the page shows neither the old memory nor the finished new one.
    HalfDone { page: GpaRange },
    /// 5: a step failed, and the answer does not say so.
    FailureHidden { page: GpaRange },
    /// The steps came in an order that the host's contract does not know.
    OutOfOrder { what: &'static str },
    /// Staged memory was not given back.
    Leak,
}

impl Violation {
    /// The number of the invariant in ARCHITECTURE.md; none for the host's contract.
    pub(crate) fn invariant(&self) -> Option<u8> {
        match self {
            Self::SilentCorruption { .. } => Some(1),
            Self::HealthyByteLost { .. } => Some(2),
            Self::LossNotTold { .. }
            | Self::ToldWrongly { .. }
            | Self::LedgerDiffers
            | Self::NotRenewed { .. } => Some(3),
            Self::TwoViews { .. } => Some(4),
            Self::HalfDone { .. } | Self::FailureHidden { .. } => Some(5),
            Self::OutOfOrder { .. } | Self::Leak => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.invariant() {
            Some(number) => write!(f, "invariant {number}: {self:?}"),
            None => write!(f, "the host's contract: {self:?}"),
        }
    }
}
