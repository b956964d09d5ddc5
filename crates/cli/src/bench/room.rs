//! Memory for a benchmark: refused where the machine does not have it, before the kernel ends
//! somebody for lack of it.

use pagemend::probe::Pool;
use pagemend::{PageSize, available_memory};

use super::error::BenchError;
use crate::pool::GrownPool;
use crate::size::Size;

/// What a benchmark takes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// The pages that guest memory is made of, and bytes of them.
    pub(super) guest: Option<(PageSize, u64)>,
    /// Bytes of other memory: what pages are mended with, and buffers.
    pub(super) other: u64,
}

impl Room {
    /// Sees to it that there is so much, with an eighth to spare for others, and gets the pages.
    pub(super) fn get(self) -> Result<Option<GrownPool>, BenchError> {
        let missing = match self.guest {
            Some((size, bytes)) => {
                let spare = Pool::of(size).map_or(0, |pool| pool.spare());
                let pages = bytes.div_ceil(size.bytes()).saturating_sub(spare);
                pages * size.bytes()
            }
            None => 0,
        };
        let needed = missing + self.other;
        let needed = needed + needed / 8;
        let available = available_memory().unwrap_or(u64::MAX);
        if needed > available {
            return Err(BenchError::TooLarge {
                needed: Size(needed),
                available: Size(available),
            });
        }
        self.guest
            .map(|(size, bytes)| {
                GrownPool::with_spare(size, bytes.div_ceil(size.bytes())).map_err(Into::into)
            })
            .transpose()
    }
}
