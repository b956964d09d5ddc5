//! Who works where: disjoint parts of the memory, without the lost frames, which nobody who knows
//! of them touches, in no case.

use std::ops::Range;

use pagemend::FRAME_SIZE;

/// Memory is dealt out and walked in pieces of this size, whatever its pages are, so that all cases
/// do the same work.
pub(super) const SLOT: u64 = 2 << 20;
/// No frame of a slot is lost.
pub(super) const NONE: u64 = u64::MAX;

/// What one thread has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    /// The slots, counted from the beginning of the memory.
    pub(super) slots: Range<u64>,
    /// The number of the lost frame in each slot, or [`NONE`].
    pub(super) lost: Vec<u64>,
}

impl Part {
    /// All that it has but for lost frames: ranges of bytes from the beginning of the memory.
    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        let mut ranges = vec![];
        for (slot, lost) in self.slots.clone().zip(&self.lost) {
            let (start, end) = (slot * SLOT, (slot + 1) * SLOT);
            match *lost {
                NONE => ranges.push(start..end),
                frame => {
                    let lost = start + frame * FRAME_SIZE;
                    ranges.extend([start..lost, lost + FRAME_SIZE..end]);
                }
            }
        }
        ranges.retain(|range| !range.is_empty());
        ranges
    }
}

/// Deals out `slots` slots with these lost frames to so many threads, as evenly as it goes.
pub(super) fn parts(slots: u64, threads: u64, lost: &[u64]) -> Vec<Part> {
    let border = |thread| slots * thread / threads;
    (0..threads)
        .map(|thread| {
            let slots = border(thread)..border(thread + 1);
            let of_slot = |slot: u64| {
                let at = lost.partition_point(|lost| *lost < slot * SLOT);
                let lost = lost.get(at).filter(|lost| **lost < (slot + 1) * SLOT);
                lost.map_or(NONE, |lost| lost % SLOT / FRAME_SIZE)
            };
            Part {
                lost: slots.clone().map(of_slot).collect(),
                slots,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_but_the_lost_is_somebodys_and_nobody_elses() {
        let lost = [0, SLOT + 5 * FRAME_SIZE, 4 * SLOT - FRAME_SIZE];
        let parts = parts(7, 3, &lost);
        let ranges: Vec<_> = parts.iter().flat_map(Part::ranges).collect();
        let mut expected = 0;
        for range in ranges {
            while lost.contains(&expected) {
                expected += FRAME_SIZE;
            }
            assert_eq!(range.start, expected);
            expected = range.end;
        }
        assert_eq!(expected, 7 * SLOT);
        assert!(
            parts
                .iter()
                .all(|part| part.slots.end - part.slots.start >= 2)
        );
    }
}
