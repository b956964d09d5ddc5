//! Huge pages that are got for a demonstration and given back after it.

use std::io;

use pagemend::probe::Pool;
use pagemend::{MemoryError, PageSize, resize_pool};

use super::error::DemoError;

/// Pages that a pool has more than before; they go when this is dropped.
#[derive(Debug)]
pub(super) struct GrownPool {
    size: PageSize,
    pub(super) added: u64,
}

impl GrownPool {
    /// Adds `missing` pages of `size`, or leaves the pool as it was. `shortage` is what made it
    /// necessary.
    pub(super) fn grow(
        size: PageSize,
        missing: u64,
        shortage: MemoryError,
    ) -> Result<Self, DemoError> {
        let stays = |why: String| DemoError::PoolStays { why, shortage };
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
        if let Some(now) = Pool::of(self.size) {
            let fixed = now.total.saturating_sub(now.surplus);
            if let Err(error) = resize_pool(self.size, fixed.saturating_sub(self.added)) {
                anstream::eprintln!(
                    "pagemend demo: {} huge pages of {} stay in their pool: {error}",
                    self.added,
                    self.size
                );
            }
        }
    }
}
