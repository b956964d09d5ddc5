//! The page sizes that a benchmark of huge pages can be asked for.

use std::fmt;

use clap::ValueEnum;
use pagemend::{MemoryKind, PageSize};

/// Huge pages of a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum HugePages {
    #[value(name = "2M", alias = "2m")]
    Two,
    #[value(name = "1G", alias = "1g")]
    Gigantic,
}

impl HugePages {
    pub(super) const ALL: [Self; 2] = [Self::Two, Self::Gigantic];

    pub(super) fn size(self) -> PageSize {
        match self {
            Self::Two => PageSize::SIZE_2M,
            Self::Gigantic => PageSize::SIZE_1G,
        }
    }

    pub(super) fn bytes(self) -> u64 {
        self.size().bytes()
    }

    /// Guest memory that is made of them.
    pub(super) fn kind(self) -> MemoryKind {
        MemoryKind::Hugetlb(self.size())
    }
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.size().fmt(f)
    }
}
