//! Where in which file each part of a covered page gets its new memory.
//!
//! In the order of the page, whatever the order in which the parts come: so parts of shared memory
//! become few mappings as they come to lie side by side, where each by itself would be one of those
//! that the kernel counts (`vm.max_map_count`). Pool pages are in that order too, but stay as many
//! mappings as they came in: the kernel never merges mappings of hugetlb files.

use std::io;

use pagemend_core::address::{Gpa, GpaRange, PageSize};
use pagemend_core::map::Source;

use super::ladder::HALF_GIB;
use crate::files::{Files, Kind};
use crate::settings::NumaPolicy;

/// The places for one page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plot {
    page: GpaRange,
    /// For every other half GiB: no mapping of pool pages may cover one (see `shroud`).
    hugetlb: [Source; 2],
    shmem: Source,
    /// Where the memory of the page comes from: its cover does not tell any more.
    pub(crate) policy: Option<NumaPolicy>,
}

impl Plot {
    /// The pool pages that a covered page gets.
    const POOL: Kind = Kind::Hugetlb(PageSize::SIZE_2M);

    pub(crate) fn new(
        files: &Files,
        page: GpaRange,
        policy: Option<NumaPolicy>,
    ) -> io::Result<Self> {
        let set_aside = |kind| files.set_aside(kind, page.len());
        Ok(Self {
            page,
            hugetlb: [set_aside(Self::POOL)?, set_aside(Self::POOL)?],
            shmem: set_aside(Kind::Shmem)?,
            policy,
        })
    }

    pub(crate) fn page(&self) -> GpaRange {
        self.page
    }

    pub(crate) fn covers(&self, part: &GpaRange) -> bool {
        self.page.covers(part)
    }

    /// Bytes from the start of the page.
    pub(super) fn offset_of(&self, gpa: Gpa) -> u64 {
        gpa.get() - self.page.start().get()
    }

    /// The place for what is `offset` bytes into the page; none for pages of other sizes.
    pub(super) fn place(&self, kind: Kind, offset: u64) -> Option<Source> {
        let whole = match kind {
            Kind::Shmem => self.shmem,
            Self::POOL => self.hugetlb[(offset / HALF_GIB % 2) as usize],
            Kind::Hugetlb(_) => return None,
        };
        Some(Source {
            offset: whole.offset + offset,
            ..whole
        })
    }
}
