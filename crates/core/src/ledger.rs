//! The ledger: which 4 KiB frames of the guest are lost, why, since when, and who was told.
//!
//! Everything that hands out guest memory asks it, and a migration takes its changes while errors
//! arrive, so it answers in nanoseconds and stays small at ten million lost frames.
//!
//! # Structure
//!
//! - Membership is a sparse bitmap in the shape of a page table (`frame_set`). It answers a lookup
//!   with three indexed loads, whatever the density. Compressed bitmaps (`roaring`, whole and in
//!   64-bit form) are far smaller while single frames are scattered thinly over the guest. But where
//!   size matters, at ten million frames in 640 GiB, they are as large as a plain bitmap, and a
//!   lookup in them, a search in a sorted array, takes several times as long and misses the mark of
//!   50 ns. A `BTreeSet` is larger and slower still; a plain bitmap must be sized for the guest in
//!   advance. `cargo bench -p pagemend-core --bench ledger` compares all of them.
//! - The order of losses, with cause and time, is a log of bit-packed columns (`log`). Its position
//!   is the [`Generation`]: a diff is the end of the log.
//! - What was told is a position in that log for each recipient (`recipients`).
//!
//! # Example
//!
//! ```
//! use pagemend_core::{address::Gpa, ledger::{Cause, Ledger}, time::Timestamp};
//!
//! let mut ledger = Ledger::new();
//! let guest = ledger.register("guest-mce");
//! let seen = ledger.generation();
//! assert!(ledger.insert(Gpa::new(0x4020_1040), Cause::ActionRequired, Timestamp::from_nanos(0)));
//! assert!(ledger.contains(Gpa::new(0x4020_1fff)), "the whole frame is lost");
//! assert!(ledger.tell(guest, Gpa::new(0x4020_1000)));
//! assert_eq!(ledger.untold(guest).count(), 0);
//! assert_eq!(ledger.since(seen).map(|losses| losses.count()), Some(1));
//! ```

mod binary;
mod bits;
mod decode_error;
mod enforcement;
mod frame_set;
mod history;
mod json;
mod log;
mod loss;
mod packed;
mod recipients;
#[cfg(test)]
mod tests;

use std::{fmt, ops::Range};

pub use self::{
    decode_error::DecodeError,
    json::SCHEMA,
    loss::{Cause, Enforcement, Entry, Generation, Loss},
};
use self::{
    frame_set::FrameSet,
    log::{Log, Record},
    recipients::Recipient,
};
use crate::{
    address::{FRAME_SIZE, Gpa, GpaRange},
    time::Timestamp,
};

/// One who is told of losses, as registered with one ledger. It stays valid in clones of that
/// ledger; in a decoded one ask [`Ledger::recipient`] for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecipientId(usize);

/// The record of lost frames.
///
/// Addresses may lie anywhere in a frame. A frame is recorded once: the first loss counts, with its
/// cause and time. Two ledgers are equal where their histories are.
#[derive(Clone, Default)]
pub struct Ledger {
    frames: FrameSet,
    log: Log,
    recipients: Vec<Recipient>,
    /// The lost frames that the guest keeps off by itself.
    entrusted: FrameSet,
}

impl Ledger {
    /// A ledger of healthy memory. It allocates nothing until a frame is lost.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records the loss of the frame that holds `gpa`. False where it was lost already; nothing
    /// changes then.
    pub fn insert(&mut self, gpa: Gpa, cause: Cause, time: Timestamp) -> bool {
        let frame = gpa.get() / FRAME_SIZE;
        let lost_now = self.frames.insert(frame);
        if lost_now {
            self.log.push(Record {
                frame,
                millis: time.millis(),
                cause,
            });
        }
        lost_now
    }

    /// Records the loss of every frame that `range` touches, in address order, and returns how many
    /// of them were not lost before. Costs little more than filling bits, so a page that is lost
    /// whole needs no loop.
    pub fn insert_range(&mut self, range: GpaRange, cause: Cause, time: Timestamp) -> u64 {
        let frames = frames_of(&range);
        let lost_before: Vec<_> = self.frames.runs_in(frames.clone()).collect();
        self.frames.fill(frames.clone());
        let mut start = frames.start;
        let mut lost_now = 0;
        for lost in lost_before
            .into_iter()
            .chain(std::iter::once(frames.end..frames.end))
        {
            lost_now += lost.start - start;
            self.log.push_run(start..lost.start, cause, time.millis());
            start = lost.end;
        }
        lost_now
    }

    /// Whether the frame that holds `gpa` is lost.
    pub fn contains(&self, gpa: Gpa) -> bool {
        self.frames.contains(gpa.get() / FRAME_SIZE)
    }

    /// Whether any frame that `range` touches is lost. The cost does not depend on how long the
    /// range is, nor on how much of it is lost.
    pub fn overlaps(&self, range: &GpaRange) -> bool {
        self.frames.overlaps(frames_of(range))
    }

    /// The lost frames in address order, each by its first byte.
    pub fn iter(&self) -> impl Iterator<Item = Gpa> {
        self.frames.frames_in(0..u64::MAX).map(gpa_of)
    }

    /// The lost frames that `range` touches in address order, each by its first byte.
    pub fn iter_in(&self, range: &GpaRange) -> impl Iterator<Item = Gpa> {
        self.frames.frames_in(frames_of(range)).map(gpa_of)
    }

    /// The lost memory in address order, as the fewest ranges.
    pub fn runs(&self) -> impl Iterator<Item = GpaRange> {
        self.frames.runs_in(0..u64::MAX).map(range_of)
    }

    /// The lost frames that `range` touches in address order, as the fewest ranges.
    pub fn runs_in(&self, range: &GpaRange) -> impl Iterator<Item = GpaRange> {
        self.frames.runs_in(frames_of(range)).map(range_of)
    }

    /// The frames that `range` touches and that are not lost, in address order, as the fewest
    /// ranges.
    pub fn gaps_in(&self, range: &GpaRange) -> impl Iterator<Item = GpaRange> {
        let Range { start, end } = frames_of(range);
        let mut at = start;
        self.frames
            .runs_in(start..end)
            .chain(std::iter::once(end..end))
            .filter_map(move |lost| {
                let gap = at..lost.start;
                at = lost.end;
                (!gap.is_empty()).then(|| range_of(gap))
            })
    }

    /// What is known of the frame that holds `gpa`, or `None` where it is not lost. Linear in the
    /// number of losses: for people, not for a fault's way.
    pub fn entry(&self, gpa: Gpa) -> Option<Entry<'_>> {
        let generation = self.find(gpa)?;
        let record = self.log.since(generation).next()?;
        Some(Entry {
            loss: Loss::new(record),
            enforcement: self.enforcement_of(gpa.get() / FRAME_SIZE),
            told: self.recipients_knowing(generation).collect(),
        })
    }

    /// How many frames are lost.
    pub fn len(&self) -> u64 {
        let Range { start, end } = self.log.generations();
        end - start
    }

    /// Whether no frame is lost.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes are lost.
    pub fn lost_bytes(&self) -> u64 {
        self.len() * FRAME_SIZE
    }

    /// The present point in history: where the next loss will be recorded.
    pub fn generation(&self) -> Generation {
        Generation::new(self.log.generations().end)
    }

    /// The losses from `generation` on, oldest first; none where it lies ahead. `None` where the
    /// ledger was cleared since `generation`: whoever asks must forget what it knew and start from
    /// all losses, which is `since` [`first_generation`](Self::first_generation).
    pub fn since(&self, generation: Generation) -> Option<impl Iterator<Item = Loss>> {
        (generation >= self.first_generation())
            .then(|| self.log.since(generation.get()).map(Loss::new))
    }

    /// The generation at which the ledger was last cleared, and so that of the oldest loss it holds.
    pub fn first_generation(&self) -> Generation {
        Generation::new(self.log.generations().start)
    }

    /// Forgets all losses, because a reset gave the guest fresh memory. Recipients stay registered
    /// and have nothing to be told. Generations go on: the clear takes one of its own, so that
    /// [`since`](Self::since) an earlier one tells that there was a clear.
    pub fn clear(&mut self) {
        let first = self.generation().next().get();
        self.frames = FrameSet::default();
        self.log = Log::starting_at(first);
        self.entrusted = FrameSet::default();
        for recipient in &mut self.recipients {
            recipient.restart(first);
        }
    }

    /// Registers one who is to be told of losses, the past ones included, or finds it where the
    /// name is registered already.
    pub fn register(&mut self, name: &str) -> RecipientId {
        self.recipient(name).unwrap_or_else(|| {
            let cursor = self.first_generation().get();
            self.recipients.push(Recipient::new(name, cursor));
            RecipientId(self.recipients.len() - 1)
        })
    }

    /// The recipient of that name.
    pub fn recipient(&self, name: &str) -> Option<RecipientId> {
        let place = self.recipients.iter().position(|one| one.name == name)?;
        Some(RecipientId(place))
    }

    /// Notes that `recipient` was told of the frame that holds `gpa`. False where it had been told
    /// before, or the frame is not lost. Immediate for the oldest loss it had not been told of;
    /// linear in those losses otherwise.
    ///
    /// # Panics
    ///
    /// Where `recipient` comes from another ledger and this one has fewer.
    pub fn tell(&mut self, recipient: RecipientId, gpa: Gpa) -> bool {
        self.contains(gpa) && self.recipients[recipient.0].tell(&self.log, gpa.get() / FRAME_SIZE)
    }

    /// Notes that `recipient` was told of every loss before `generation`.
    ///
    /// # Panics
    ///
    /// Where `recipient` comes from another ledger and this one has fewer.
    pub fn tell_before(&mut self, recipient: RecipientId, generation: Generation) {
        let known = generation.min(self.generation());
        self.recipients[recipient.0].tell_before(known.get());
    }

    /// The losses that `recipient` has not been told of, oldest first.
    ///
    /// # Panics
    ///
    /// Where `recipient` comes from another ledger and this one has fewer.
    pub fn untold(&self, recipient: RecipientId) -> impl Iterator<Item = Loss> {
        self.recipients[recipient.0]
            .untold(&self.log)
            .map(Loss::new)
    }

    /// The names of the recipients that were told of the frame that holds `gpa`. Linear in the
    /// number of losses.
    pub fn told(&self, gpa: Gpa) -> Vec<&str> {
        let told = |generation| self.recipients_knowing(generation).collect();
        self.find(gpa).map(told).unwrap_or_default()
    }

    /// Bytes that the ledger has on the heap.
    pub fn memory_bytes(&self) -> usize {
        self.frames.memory_bytes()
            + self.log.memory_bytes()
            + self.recipients.capacity() * size_of::<Recipient>()
            + self.entrusted.memory_bytes()
            + self
                .recipients
                .iter()
                .map(Recipient::memory_bytes)
                .sum::<usize>()
    }

    fn find(&self, gpa: Gpa) -> Option<u64> {
        let frame = gpa.get() / FRAME_SIZE;
        let lost = self.frames.contains(frame);
        lost.then(|| self.log.find_since(0, frame)).flatten()
    }

    fn recipients_knowing(&self, generation: u64) -> impl Iterator<Item = &str> {
        self.recipients
            .iter()
            .filter(move |recipient| recipient.knows(generation))
            .map(|recipient| recipient.name.as_str())
    }
}

impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        self.log.generations() == other.log.generations()
            && self.recipients == other.recipients
            && self.entrusted_frames().eq(other.entrusted_frames())
            && self.log.since(0).eq(other.log.since(0))
    }
}

impl Eq for Ledger {}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("lost_frames", &self.len())
            .field("generation", &self.generation())
            .field("recipients", &self.recipients)
            .finish_non_exhaustive()
    }
}

/// The numbers of the frames that `range` touches.
fn frames_of(range: &GpaRange) -> Range<u64> {
    let start = range.start().get() / FRAME_SIZE;
    match range.len() {
        0 => start..start,
        _ => start..(range.end().get() - 1) / FRAME_SIZE + 1,
    }
}

fn range_of(frames: Range<u64>) -> GpaRange {
    GpaRange::new(
        gpa_of(frames.start),
        (frames.end - frames.start) * FRAME_SIZE,
    )
    .expect("frames lie inside the address space")
}

fn gpa_of(frame: u64) -> Gpa {
    Gpa::new(frame * FRAME_SIZE)
}
