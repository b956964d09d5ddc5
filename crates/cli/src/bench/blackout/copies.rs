//! What waits are compared with: a copy of 2 MiB, which is what a mend cannot do without.

use std::hint::black_box;
use std::time::Instant;

use super::super::spread::Times;

const PIECE: usize = 2 << 20;
/// So many that the caches have none of a piece any more when its turn comes again.
const PIECES: usize = 48;
/// Copies each time that they have their turn.
const AT_ONCE: usize = 8;
/// Bytes of memory that they take.
pub(super) const BYTES: u64 = 2 * (PIECES * PIECE) as u64;

/// Buffers in ordinary memory, and how long copies between them took.
pub(super) struct Copies {
    from: Vec<u8>,
    to: Vec<u8>,
    next: usize,
    micros: Vec<f64>,
}

impl Copies {
    pub(super) fn new() -> Self {
        Self {
            from: vec![1; PIECES * PIECE],
            to: vec![2; PIECES * PIECE],
            next: 0,
            micros: vec![],
        }
    }

    /// Copies some pieces, each into memory that is there already but in no cache.
    pub(super) fn take(&mut self) {
        for _ in 0..AT_ONCE {
            let piece = self.next * PIECE..(self.next + 1) * PIECE;
            self.next = (self.next + 1) % PIECES;
            let (from, to) = (&self.from[piece.clone()], &mut self.to[piece]);
            let start = Instant::now();
            black_box(&mut *to).copy_from_slice(black_box(from));
            self.micros.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }

    pub(super) fn times(self) -> Option<Times> {
        Times::of(self.micros)
    }
}
