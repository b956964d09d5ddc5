//! The set of lost frames: is this frame lost, and is anything in this range.
//!
//! It has the shape of a page table. A leaf is a cache line with one bit for each frame of a 2 MiB
//! page, the next level has up to 512 leaves for a GiB, the next up to 512 of those for 512 GiB.
//! Unlike in a page table only the entries that exist take memory; which do is a bitmap of its own,
//! and an entry's place is the number of bits set below its own.

use std::{collections::BTreeMap, ops::Range};

use super::bits::{Bits, FANOUT, inside, ones, runs_of_ones};

/// Frames in a leaf: those of a 2 MiB page.
const LEAF_FRAMES: u64 = FANOUT as u64;

#[derive(Clone)]
struct Level<T> {
    present: Bits,
    entries: Vec<T>,
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self {
            present: Bits::default(),
            entries: Vec::new(),
        }
    }
}

impl<T: Default> Level<T> {
    /// Where the entry of `slot` is or would be.
    fn place(&self, slot: usize) -> usize {
        if self.entries.len() == FANOUT {
            slot
        } else {
            self.present.rank(slot)
        }
    }

    fn get(&self, slot: usize) -> Option<&T> {
        self.present
            .contains(slot)
            .then(|| &self.entries[self.place(slot)])
    }

    fn get_or_add(&mut self, slot: usize) -> &mut T {
        let place = self.place(slot);
        if self.present.insert(slot) {
            let len = self.entries.len();
            if len == self.entries.capacity() {
                // A vector would double from four. Growing by a quarter, a lone frame pays for one
                // leaf, and a full level has no slack.
                self.entries.reserve_exact((len / 4).clamp(1, FANOUT - len));
            }
            self.entries.insert(place, T::default());
        }
        &mut self.entries[place]
    }

    fn from(&self, first: usize) -> impl Iterator<Item = (usize, &T)> {
        let place = self.place(first);
        self.present.ones_from(first).zip(&self.entries[place..])
    }

    fn own_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<T>()
    }
}

/// A set of frame numbers.
#[derive(Clone, Default)]
pub(super) struct FrameSet {
    blocks: BTreeMap<u64, Level<Level<Bits>>>,
}

/// A frame's 512 GiB block, and its slot in the block, in the GiB and in the 2 MiB page.
fn split(frame: u64) -> (u64, usize, usize, usize) {
    let slot = |level: u32| (frame >> (9 * level)) as usize % FANOUT;
    (frame >> 27, slot(2), slot(1), slot(0))
}

impl FrameSet {
    pub(super) fn contains(&self, frame: u64) -> bool {
        let slot = split(frame).3;
        self.leaf(frame).is_some_and(|leaf| leaf.contains(slot))
    }

    /// Adds the frame, and says whether it was missing.
    pub(super) fn insert(&mut self, frame: u64) -> bool {
        let slot = split(frame).3;
        self.leaf_mut(frame).insert(slot)
    }

    /// Adds all frames of the range.
    pub(super) fn fill(&mut self, frames: Range<u64>) {
        let mut frame = frames.start;
        while frame < frames.end {
            let leaf = frame - frame % LEAF_FRAMES;
            let behind = frames.end.min(leaf + LEAF_FRAMES);
            self.leaf_mut(frame).fill(frame - leaf..behind - leaf);
            frame = behind;
        }
    }

    fn leaf(&self, frame: u64) -> Option<&Bits> {
        let (block, gib, page, _) = split(frame);
        self.blocks.get(&block)?.get(gib)?.get(page)
    }

    fn leaf_mut(&mut self, frame: u64) -> &mut Bits {
        let (block, gib, page, _) = split(frame);
        let block = self.blocks.entry(block).or_default();
        block.get_or_add(gib).get_or_add(page)
    }

    /// The frames of the range that are in the set, in order.
    pub(super) fn frames_in(&self, frames: Range<u64>) -> impl Iterator<Item = u64> {
        self.words_in(frames)
            .flat_map(|(first, word)| ones(word).map(move |bit| first + u64::from(bit)))
    }

    /// The longest stretches of the range that are in the set, in order.
    pub(super) fn runs_in(&self, frames: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut parts = self
            .words_in(frames)
            .flat_map(|(first, word)| {
                runs_of_ones(word).map(move |(low, high)| {
                    let (low, high) = (u64::from(low), u64::from(high));
                    first + low..first + high
                })
            })
            .peekable();
        std::iter::from_fn(move || {
            let mut run = parts.next()?;
            while let Some(part) = parts.next_if(|part| part.start == run.end) {
                run.end = part.end;
            }
            Some(run)
        })
    }

    pub(super) fn overlaps(&self, frames: Range<u64>) -> bool {
        let leaf = frames.start - frames.start % LEAF_FRAMES;
        if frames.end <= leaf + LEAF_FRAMES {
            // Pages of up to 2 MiB are what is asked about most: no need to walk.
            let slots = frames.start - leaf..frames.end - leaf;
            return self.leaf(leaf).is_some_and(|leaf| leaf.overlaps(&slots));
        }
        self.words_in(frames).next().is_some()
    }

    /// The words that hold frames of the range, without the bits that lie outside it, each with the
    /// frame of its lowest bit.
    fn words_in(&self, frames: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
        let Range { start, end } = frames;
        self.leaves_from(start)
            .take_while(move |&(first, _)| first < end)
            .flat_map(|(first, leaf)| leaf.words().map(move |(slot, word)| (first + slot, word)))
            .map(move |(first, word)| (first, word & inside(first, &(start..end))))
            .filter(|&(_, word)| word != 0)
    }

    /// The leaves from the one that would hold `frame` on, each with its first frame.
    fn leaves_from(&self, frame: u64) -> impl Iterator<Item = (u64, &Bits)> {
        let (block, gib, page, _) = split(frame);
        self.blocks.range(block..).flat_map(move |(&b, gibs)| {
            let first = if b == block { gib } else { 0 };
            gibs.from(first).flat_map(move |(g, pages)| {
                let first = if (b, g) == (block, gib) { page } else { 0 };
                pages
                    .from(first)
                    .map(move |(p, leaf)| ((((b << 9) | g as u64) << 9 | p as u64) << 9, leaf))
            })
        })
    }

    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        // The nodes of a B-tree have eleven places, and the tree does not tell how many it has.
        let nodes = self.blocks.len().div_ceil(11);
        let below = |block: &Level<Level<Bits>>| {
            block.own_bytes() + block.entries.iter().map(Level::own_bytes).sum::<usize>()
        };
        nodes * 11 * size_of::<(u64, Level<Level<Bits>>)>()
            + self.blocks.values().map(below).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Frames in a few crowded places, at the edges of every level, and far apart.
    fn frames() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..200u64,
            (0..4u64, 0..4u64, 0..4u64, 0..4u64)
                .prop_map(|(b, g, p, f)| { (b << 27) + (g << 18) + (p << 9) + f * 170 }),
            (1..30u32, 0..4u64).prop_map(|(bit, below)| (1u64 << bit) - below.min(1 << bit)),
            0..1u64 << 52,
        ]
    }

    proptest! {
        #[test]
        fn the_set_holds_what_a_btree_set_holds(
            singles in prop::collection::vec(frames(), 0..200),
            fills in prop::collection::vec((frames(), 0..2000u64), 0..4),
            probes in prop::collection::vec((frames(), prop_oneof![0..700u64, 0..1u64 << 28]), 1..40),
        ) {
            let (mut set, mut model) = (FrameSet::default(), BTreeSet::new());
            for frame in singles {
                prop_assert_eq!(set.insert(frame), model.insert(frame));
            }
            for (start, len) in fills {
                set.fill(start..start + len);
                model.extend(start..start + len);
            }
            prop_assert!(set.frames_in(0..u64::MAX).eq(model.iter().copied()));
            for (start, len) in probes {
                let range = start..start + len;
                prop_assert_eq!(set.contains(start), model.contains(&start));
                prop_assert_eq!(set.overlaps(range.clone()), model.range(range.clone()).next().is_some());
                let expected: Vec<_> = model.range(range.clone()).copied().collect();
                let runs: Vec<_> = set.runs_in(range.clone()).collect();
                prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert!(runs.into_iter().flatten().eq(expected.iter().copied()));
                prop_assert!(set.frames_in(range).eq(expected));
            }
        }
    }
}
