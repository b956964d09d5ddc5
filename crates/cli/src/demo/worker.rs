//! The guest's load: threads that check and rewrite every word of its memory, and so are the
//! witnesses of what was lost and what was not.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use pagemend::guard::GuardError;
use pagemend::{FRAME_SIZE, Gpa, GuestRegion, Pagemend, Policy};

const FRAME: usize = FRAME_SIZE as usize;
const WORD: usize = size_of::<u64>();

/// How far the demonstration is, for the workers: they check until they are told otherwise.
#[derive(Debug, Default)]
pub(super) struct Stage {
    stage: AtomicU8,
    /// Frames that have their first values.
    pub(super) filled: AtomicU64,
}

impl Stage {
    const LAST_PASS: u8 = 1;
    const OVER: u8 = 2;

    /// No more errors: each worker makes one more pass over all that it has.
    pub(super) fn finish(&self) {
        self.stage.fetch_max(Self::LAST_PASS, Ordering::AcqRel);
    }

    /// Ends the workers where they are.
    pub(super) fn stop(&self) {
        self.stage.store(Self::OVER, Ordering::Release);
    }

    fn is(&self, stage: u8) -> bool {
        self.stage.load(Ordering::Acquire) == stage
    }
}

/// What a worker has witnessed.
#[derive(Debug, Default)]
pub(super) struct Witness {
    pub(super) lost: BTreeSet<Gpa>,
    pub(super) wrong_values: u64,
    pub(super) values_checked: u64,
    pub(super) passes: u64,
}

/// One of `count` workers, which has every `count`th frame, so that all of them meet in each huge
/// page.
pub(super) struct Worker<'a> {
    pub(super) pagemend: &'a Pagemend,
    pub(super) region: GuestRegion,
    pub(super) stage: &'a Stage,
    pub(super) policy: Policy,
    pub(super) seed: u64,
    pub(super) number: u64,
    pub(super) count: u64,
}

impl Worker<'_> {
    /// Works until the last pass is done, or everything is over.
    pub(super) fn work(&self) -> Result<Witness, GuardError> {
        let mut seen = Witness::default();
        let mut buffer = [0; FRAME];
        for frame in self.frames() {
            if self.stage.is(Stage::OVER) {
                return Ok(seen);
            }
            for (word, bytes) in buffer.chunks_exact_mut(WORD).enumerate() {
                bytes.copy_from_slice(&self.value(frame, word, 0).to_le_bytes());
            }
            self.region.write(frame, &buffer)?;
            self.stage.filled.fetch_add(1, Ordering::Relaxed);
        }
        loop {
            // Asked before the pass, which is complete only if all of it comes after.
            let last = self.stage.is(Stage::LAST_PASS);
            self.forget_discarded(&mut seen);
            for frame in self.frames() {
                if self.stage.is(Stage::OVER) {
                    return Ok(seen);
                }
                if !seen.lost.contains(&frame) {
                    self.check_and_write(frame, &mut buffer, &mut seen)?;
                } else if last {
                    self.check_refused(frame, &mut buffer, &mut seen)?;
                }
            }
            seen.passes += 1;
            if last {
                return Ok(seen);
            }
        }
    }

    fn frames(&self) -> impl Iterator<Item = Gpa> + use<> {
        let frames = self.region.range().frames();
        frames
            .skip(self.number as usize)
            .step_by(self.count as usize)
    }

    /// What the word of a frame holds after a pass: no two words ever hold the same in one pass,
    /// and no word holds the same in two.
    fn value(&self, frame: Gpa, word: usize, pass: u64) -> u64 {
        const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
        let address = frame.get() + (word * WORD) as u64;
        (address ^ self.seed).wrapping_mul(ODD).wrapping_add(pass)
    }

    fn check_and_write(
        &self,
        frame: Gpa,
        buffer: &mut [u8; FRAME],
        seen: &mut Witness,
    ) -> Result<(), GuardError> {
        if !reached(self.region.read(frame, buffer))? {
            seen.lost.insert(frame);
            return Ok(());
        }
        let mut wrong = 0;
        for (word, bytes) in buffer.as_chunks_mut::<WORD>().0.iter_mut().enumerate() {
            let expected = self.value(frame, word, seen.passes);
            wrong += u64::from(*bytes != expected.to_le_bytes());
            *bytes = expected.wrapping_add(1).to_le_bytes();
        }
        seen.values_checked += (FRAME / WORD) as u64;
        if wrong > 0 && self.was_discarded(frame) {
            seen.lost.insert(frame);
            return Ok(());
        }
        seen.wrong_values += wrong;
        if !reached(self.region.write(frame, buffer))? {
            seen.lost.insert(frame);
        }
        Ok(())
    }

    /// A lost frame that can be read again shows bytes that nobody wrote there.
    fn check_refused(
        &self,
        frame: Gpa,
        buffer: &mut [u8; FRAME],
        seen: &mut Witness,
    ) -> Result<(), GuardError> {
        if self.policy != Policy::Discard && reached(self.region.read(frame, buffer))? {
            seen.wrong_values += (FRAME / WORD) as u64;
        }
        Ok(())
    }

    /// Frames that were told lost and can be touched all the same, with zeros in them: as a guest
    /// would, the worker forgets what it had there.
    fn forget_discarded(&self, seen: &mut Witness) {
        if self.policy == Policy::Discard {
            let lost: BTreeSet<Gpa> = self.pagemend.with_ledger(|ledger| ledger.iter().collect());
            seen.lost
                .extend(self.frames().filter(|frame| lost.contains(frame)));
        }
    }

    fn was_discarded(&self, frame: Gpa) -> bool {
        self.policy == Policy::Discard && self.pagemend.is_lost(frame)
    }
}

/// Whether an access was done; not so where the frame is lost.
fn reached(access: Result<(), GuardError>) -> Result<bool, GuardError> {
    match access {
        Ok(()) => Ok(true),
        Err(GuardError::Poisoned { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
