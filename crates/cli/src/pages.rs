//! What guest memory is made of, as it is named on the command line.

use clap::ValueEnum;
use pagemend::{MemoryKind, PageSize};

/// The page sizes to choose from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Pages {
    #[value(name = "4k", alias = "4K")]
    Small,
    #[value(name = "thp")]
    Transparent,
    #[value(name = "2M", alias = "2m")]
    Huge2M,
    #[value(name = "1G", alias = "1g")]
    Huge1G,
}

impl Pages {
    /// The fewer pages, the better.
    pub(crate) const BEST_FIRST: [Self; 4] =
        [Self::Huge1G, Self::Huge2M, Self::Transparent, Self::Small];

    /// The memory that is made of them.
    pub(crate) fn kind(self) -> MemoryKind {
        match self {
            Self::Small => MemoryKind::Shmem,
            Self::Transparent => MemoryKind::ShmemThp,
            Self::Huge2M => MemoryKind::Hugetlb(PageSize::SIZE_2M),
            Self::Huge1G => MemoryKind::Hugetlb(PageSize::SIZE_1G),
        }
    }

    /// What `--page-size` calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Small => "4k",
            Self::Transparent => "thp",
            Self::Huge2M => "2M",
            Self::Huge1G => "1G",
        }
    }

    /// The pool that the pages come from.
    pub(crate) fn pool(self) -> Option<PageSize> {
        match self.kind() {
            MemoryKind::Hugetlb(size) => Some(size),
            _ => None,
        }
    }
}
