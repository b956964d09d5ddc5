//! What guest memory consists of at the moment: pieces with one backing and one page size.

use serde::{Deserialize, Serialize};

use crate::address::{Gpa, GpaRange, PageSize};

/// What a piece of guest memory is made of. Decides what the kernel takes away at an error, and
/// what of it can be read afterwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// hugetlb, `MAP_SHARED`, of a memfd or a hugetlbfs file. An error takes the whole huge page;
    /// the file still reads what is healthy.
    Hugetlb,
    /// hugetlb, `MAP_PRIVATE` or anonymous. An error takes the whole huge page, and no file shows
    /// what is left of it.
    HugetlbPrivate,
    /// Shared memory (memfd, tmpfs), huge pages or not. An error takes 4 KiB.
    Shmem,
    /// Private anonymous memory, huge pages or not. An error takes 4 KiB.
    Anonymous,
}

impl Backing {
    /// How much the kernel takes away at an error in a page of `size`: it splits everything but
    /// hugetlb (`mm/memory-failure.c`).
    pub fn unit_of_loss(self, size: PageSize) -> PageSize {
        match self {
            Self::Hugetlb | Self::HugetlbPrivate => size,
            Self::Shmem | Self::Anonymous => PageSize::SIZE_4K,
        }
    }
}

/// A file that holds guest memory, in the host's own numbering.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileId(pub u32);

/// Where in a file the bytes of a segment start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Source {
    /// The file.
    pub file: FileId,
    /// Bytes from its start.
    pub offset: u64,
}

/// A piece of a region with one backing and one page size, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Segment {
    /// Where the guest sees it.
    pub gpa: GpaRange,
    /// The size of the pages that map it.
    pub page_size: PageSize,
    /// What it is made of.
    pub backing: Backing,
    /// The file behind it, where there is one.
    pub source: Option<Source>,
}

impl Segment {
    /// The page that the kernel takes away when an error hits `gpa`.
    pub fn page_lost_with(&self, gpa: Gpa) -> GpaRange {
        GpaRange::page(gpa, self.backing.unit_of_loss(self.page_size))
    }

    /// Where in its file the byte at `gpa` is.
    pub fn source_of(&self, gpa: Gpa) -> Option<Source> {
        let offset = self.gpa.offset_of(gpa)?;
        self.source.map(|source| Source {
            file: source.file,
            offset: source.offset + offset,
        })
    }

    /// The part of the segment in `range`, or `None` where they share nothing.
    pub(super) fn part(&self, range: &GpaRange) -> Option<Self> {
        let gpa = self.gpa.intersection(range)?;
        Some(Self {
            gpa,
            source: self.source_of(gpa.start()),
            ..*self
        })
    }

    /// Whether `next` goes on where this one ends, in memory and in its file.
    pub(super) fn goes_on_in(&self, next: &Self) -> bool {
        let source_goes_on = match (self.source, next.source) {
            (None, None) => true,
            (Some(a), Some(b)) => a.file == b.file && a.offset + self.gpa.len() == b.offset,
            _ => false,
        };
        self.gpa.end() == next.gpa.start()
            && self.page_size == next.page_size
            && self.backing == next.backing
            && source_goes_on
    }
}
