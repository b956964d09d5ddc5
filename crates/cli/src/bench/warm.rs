//! Memory that is there when it is measured. A machine that is itself virtual may have to get from
//! its host what it has not used for a while, and that takes longer than all that a mend does. A
//! host that runs guests has its memory.

use std::sync::atomic::Ordering;

use pagemend::{FRAME_SIZE, GuestMemory, MemoryKind, PageSize};

use super::error::BenchError;
use super::huge::HugePages;
use crate::pool::GrownPool;

/// Uses every frame.
pub(super) fn touch(memory: &GuestMemory) {
    let frames = memory.words().iter().step_by(FRAME_SIZE as usize / 8);
    frames.for_each(|word| {
        word.fetch_add(0, Ordering::Relaxed);
    });
}

/// What mends take as long as a benchmark runs.
pub(super) struct Stock {
    bytes: u64,
    /// Pages of 2 MiB, which larger ones come back in; without, transparent huge pages do.
    pool: Option<GrownPool>,
}

impl Stock {
    /// Gets what can be had for mending so many bytes.
    pub(super) fn get(mended: HugePages, bytes: u64) -> Self {
        let pages = bytes.div_ceil(PageSize::SIZE_2M.bytes());
        Self {
            bytes,
            pool: match mended {
                HugePages::Two => None,
                HugePages::Gigantic => GrownPool::with_spare(PageSize::SIZE_2M, pages).ok(),
            },
        }
    }

    /// Whether the pool has the pages that mends take.
    pub(super) fn is_pool(&self) -> bool {
        self.pool.is_some()
    }

    /// Uses as much of it as mends take, and of the memory of which 4 KiB pages are made: who gets
    /// some next gets what was in use last.
    pub(super) fn warm(&self) -> Result<(), BenchError> {
        let pool = self.pool.as_ref();
        let pool = pool.map(|_| MemoryKind::Hugetlb(PageSize::SIZE_2M));
        for kind in pool.into_iter().chain([MemoryKind::ShmemThp]) {
            touch(&GuestMemory::new(kind, self.bytes)?);
        }
        Ok(())
    }
}
