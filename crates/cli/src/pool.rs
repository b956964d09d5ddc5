//! Huge pages that are got for as long as a command runs, and given back after it.

use std::io;

use pagemend::probe::Pool;
use pagemend::{MemoryError, PageSize, resize_pool};

/// Why a pool stays as it is.
#[derive(Debug, thiserror::Error)]
#[error("the pool cannot be grown: {why}")]
pub(crate) struct PoolStays {
    why: String,
    #[source]
    shortage: MemoryError,
}

/// Pages that a pool has more than before; they go when this is dropped.
#[derive(Debug)]
pub(crate) struct GrownPool {
    size: PageSize,
    pub(crate) added: u64,
}

impl GrownPool {
    /// Sees to it that `pages` of `size` can be had, or leaves the pool as it was.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn with_spare(size: PageSize, pages: u64) -> Result<Self, PoolStays> {
        let Some(pool) = Pool::of(size) else {
            let shortage = MemoryError::NoPool { page_size: size };
            return Err(PoolStays {
                why: "it is not there".to_owned(),
                shortage,
            });
        };
        let available = pool.spare();
        if available >= pages {
            return Ok(Self { size, added: 0 });
        }
        let shortage = MemoryError::PoolTooSmall {
            page_size: size,
            needed: pages,
            available,
            total: pool.total,
        };
        Self::grow(size, pages - available, shortage)
    }

    /// Adds `missing` pages of `size`, or leaves the pool as it was. `shortage` is what made it
    /// necessary.
    pub(crate) fn grow(
        size: PageSize,
        missing: u64,
        shortage: MemoryError,
    ) -> Result<Self, PoolStays> {
        let stays = |why: String| PoolStays { why, shortage };
        let Some(before) = Pool::of(size) else {
            return Err(stays("it is gone".to_owned()));
        };
        match resize_pool(size, before.total - before.surplus + missing) {
            Ok(total) => {
                let pool = Self {
                    size,
                    added: total.saturating_sub(before.total),
                };
                match pool.added < missing {
                    true => Err(stays(format!(
                        "memory is too fragmented for more than {} of {missing} further pages",
                        pool.added
                    ))),
                    false => Ok(pool),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                Err(stays("that takes root".to_owned()))
            }
            Err(error) => Err(stays(error.to_string())),
        }
    }
}

impl Drop for GrownPool {
    /// By as much as was added, because others may have resized it meanwhile.
    fn drop(&mut self) {
        if self.added == 0 {
            return;
        }
        if let Some(now) = Pool::of(self.size) {
            let fixed = now.total.saturating_sub(now.surplus);
            if let Err(error) = resize_pool(self.size, fixed.saturating_sub(self.added)) {
                anstream::eprintln!(
                    "pagemend: {} huge pages of {} stay in their pool: {error}",
                    self.added,
                    self.size
                );
            }
        }
    }
}
