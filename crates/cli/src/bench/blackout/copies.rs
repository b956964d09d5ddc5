//! What waits are compared with: a copy of 2 MiB, which is what a mend cannot do without. Between
//! huge pages, as a mend's, and of memory that was last used when the memory was that it takes.

use std::time::Instant;

use pagemend::{GuestMemory, MemoryKind, PageSize};

use crate::bench::error::BenchError;
use crate::bench::spread::Times;
use crate::bench::warm;
use crate::pool::GrownPool;

const PIECE: u64 = 2 << 20;
/// So many that the caches next to a processor have none of a piece any more when its turn comes.
const PIECES: u64 = 48;
/// Copies each time that they have their turn.
const AT_ONCE: usize = 8;
/// Bytes of memory that they take.
pub(super) const BYTES: u64 = 2 * PIECES * PIECE;

/// Memory to copy in, and how long copies took.
pub(super) struct Copies {
    /// Pieces, and behind them as many to copy them to.
    memory: GuestMemory,
    next: u64,
    micros: Vec<f64>,
    _pool: Option<GrownPool>,
}

impl Copies {
    /// In pages of the pool; in transparent huge pages where it has too few.
    pub(super) fn new() -> Result<Self, BenchError> {
        let pool = GrownPool::with_spare(PageSize::SIZE_2M, BYTES / PIECE).ok();
        let kind = match pool {
            Some(_) => MemoryKind::Hugetlb(PageSize::SIZE_2M),
            None => MemoryKind::ShmemThp,
        };
        Ok(Self {
            memory: GuestMemory::new(kind, BYTES)?,
            next: 0,
            micros: vec![],
            _pool: pool,
        })
    }

    /// Uses all of it.
    pub(super) fn warm(&self) {
        warm::touch(&self.memory);
    }

    /// Copies some pieces.
    pub(super) fn take(&mut self) -> Result<(), BenchError> {
        for _ in 0..AT_ONCE {
            let from = self.next * PIECE;
            self.next = (self.next + 1) % PIECES;
            let start = Instant::now();
            let copied = self.memory.copy_within(from, from + BYTES / 2, PIECE);
            self.micros.push(start.elapsed().as_secs_f64() * 1e6);
            copied.map_err(BenchError::system("copying between huge pages"))?;
        }
        Ok(())
    }

    /// Does as many copies as a mend of so many bytes has to, which the kernel zeroes first.
    pub(super) fn stand_in(&self, bytes: u64) -> std::io::Result<()> {
        (0..2 * bytes / PIECE).try_for_each(|number| {
            let from = number % PIECES * PIECE;
            self.memory.copy_within(from, from + BYTES / 2, PIECE)
        })
    }

    pub(super) fn times(self) -> Option<Times> {
        Times::of(self.micros)
    }
}
