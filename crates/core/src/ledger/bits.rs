//! 512 bits: one cache line, one bit for each entry of a page-table level. The set of lost frames
//! is made of these, as leaf and as index.

use std::ops::Range;

/// Bits in a [`Bits`], and entries in a level of the set.
pub(super) const FANOUT: usize = 512;

/// 512 bits, all clear at first.
#[derive(Clone, Default)]
pub(super) struct Bits([u64; FANOUT / 64]);

impl Bits {
    pub(super) fn contains(&self, slot: usize) -> bool {
        self.0[slot / 64] >> (slot % 64) & 1 == 1
    }

    /// Sets the bit, and says whether it was clear.
    pub(super) fn insert(&mut self, slot: usize) -> bool {
        let word = &mut self.0[slot / 64];
        let bit = 1 << (slot % 64);
        let was_clear = *word & bit == 0;
        *word |= bit;
        was_clear
    }

    /// Sets the bits of the slots in `range`.
    pub(super) fn fill(&mut self, range: Range<u64>) {
        for (word, slot) in self.0.iter_mut().zip((0..).step_by(64)) {
            *word |= inside(slot, &range);
        }
    }

    /// Whether a bit of the slots in `range` is set.
    pub(super) fn overlaps(&self, range: &Range<u64>) -> bool {
        self.words()
            .any(|(slot, word)| word & inside(slot, range) != 0)
    }

    /// How many bits below `slot` are set.
    pub(super) fn rank(&self, slot: usize) -> usize {
        let below = self.0[slot / 64] & !(u64::MAX << (slot % 64));
        let whole: u32 = self.0[..slot / 64].iter().map(|w| w.count_ones()).sum();
        (whole + below.count_ones()) as usize
    }

    /// The words, each with the slot of its lowest bit.
    pub(super) fn words(&self) -> impl Iterator<Item = (u64, u64)> {
        (0..).step_by(64).zip(self.0)
    }

    /// The slots of the set bits from `first` on.
    pub(super) fn ones_from(&self, first: usize) -> impl Iterator<Item = usize> {
        let mut slot = first - first % 64;
        let mut word = self.0[slot / 64] & (u64::MAX << (first % 64));
        std::iter::from_fn(move || {
            while word == 0 {
                slot += 64;
                word = *self.0.get(slot / 64)?;
            }
            let one = slot + word.trailing_zeros() as usize;
            word &= word - 1;
            Some(one)
        })
    }
}

/// A word whose lowest bit is number `first`, with the bits set whose numbers are in `range`.
pub(super) fn inside(first: u64, range: &Range<u64>) -> u64 {
    let low = range.start.clamp(first, first + 64) - first;
    let high = range.end.clamp(first, first + 64) - first;
    if low < high {
        (u64::MAX >> (64 - (high - low))) << low
    } else {
        0
    }
}

/// The positions of the bits set in `word`, lowest first.
pub(super) fn ones(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (word != 0).then(|| word.trailing_zeros())?;
        word &= word - 1;
        Some(bit)
    })
}

/// The runs of bits set in `word`, lowest first, each as first position and first behind.
pub(super) fn runs_of_ones(mut word: u64) -> impl Iterator<Item = (u32, u32)> {
    std::iter::from_fn(move || {
        let first = (word != 0).then(|| word.trailing_zeros())?;
        let behind = first + (word >> first).trailing_ones();
        word &= u64::MAX.checked_shl(behind).unwrap_or(0);
        Some((first, behind))
    })
}
