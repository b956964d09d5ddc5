//! Who keeps lost frames from being taken for memory: marks, of which every touch faults, or,
//! after a heal, the guest alone.

use std::ops::Range;

use super::{Enforcement, Ledger, frame_set::FrameSet, frames_of, range_of};
use crate::address::{FRAME_SIZE, Gpa, GpaRange};

impl Ledger {
    /// Notes that the lost frames in `range` can be touched, and that the guest keeps off them.
    pub fn entrust(&mut self, range: GpaRange) {
        for run in self.frames.runs_in(frames_of(&range)) {
            self.entrusted.fill(run);
        }
    }

    /// Notes that every touch of the lost frames in `range` faults again.
    pub fn take_back(&mut self, range: GpaRange) {
        let Range { start, end } = frames_of(&range);
        let mut kept = FrameSet::default();
        for rest in [0..start, end..u64::MAX] {
            for run in self.entrusted.runs_in(rest) {
                kept.fill(run);
            }
        }
        self.entrusted = kept;
    }

    /// Who sees to it that nobody takes the frame that holds `gpa` for memory, or `None` where it is
    /// not lost.
    pub fn enforcement(&self, gpa: Gpa) -> Option<Enforcement> {
        let frame = gpa.get() / FRAME_SIZE;
        self.contains(gpa).then(|| self.enforcement_of(frame))
    }

    /// The lost frames in `range` of which every touch faults, in address order, as the fewest
    /// ranges.
    pub fn enforced_in(&self, range: &GpaRange) -> impl Iterator<Item = GpaRange> {
        self.runs_where(range, Enforcement::Host)
    }

    /// The lost frames in `range` that the guest keeps off by itself, likewise.
    pub fn entrusted_in(&self, range: &GpaRange) -> impl Iterator<Item = GpaRange> {
        self.runs_where(range, Enforcement::Guest)
    }

    pub(super) fn enforcement_of(&self, frame: u64) -> Enforcement {
        match self.entrusted.contains(frame) {
            true => Enforcement::Guest,
            false => Enforcement::Host,
        }
    }

    pub(super) fn entrusted_frames(&self) -> impl Iterator<Item = u64> {
        self.entrusted.frames_in(0..u64::MAX)
    }

    fn runs_where(
        &self,
        range: &GpaRange,
        enforcement: Enforcement,
    ) -> impl Iterator<Item = GpaRange> {
        let frames = self.frames.frames_in(frames_of(range));
        let mut frames = frames
            .filter(move |frame| self.enforcement_of(*frame) == enforcement)
            .peekable();
        std::iter::from_fn(move || {
            let start = frames.next()?;
            let mut end = start + 1;
            while frames.next_if_eq(&end).is_some() {
                end += 1;
            }
            Some(range_of(start..end))
        })
    }
}
