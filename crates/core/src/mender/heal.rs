//! Healing: a stretch that was broken up around lost frames becomes one huge page again.
//!
//! Huge pages have no marks for single frames. So the lost frames become memory that can be touched,
//! with a pattern in it that nobody takes for data, and it is the guest that keeps off them. That is
//! in the ledger and told before anyone can read the pattern. When it is time for that is the
//! region's policy; every touch of a lost frame shows that it is not.
//!
//! Of what the VMM has brought nothing is healed: somebody else may have it mapped, and would see
//! other memory appear in its file.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;

use super::stream::STRETCH;
use super::{Job, Mender, Trail, failed};
use crate::address::{Gpa, GpaRange};
use crate::event::Step;
use crate::fault::{Condition, Fault};
use crate::host::{Host, Swapped, Target};
use crate::ledger::Enforcement;
use crate::map::{Backing, Region};
use crate::plan::Reason;
use crate::policy::{Heal, Policy};
use crate::time::Timestamp;

/// A stretch that could not be healed is tried again after this time, then after twice that, and so
/// on: what is in the way may be I/O, or a lack of huge pages.
const RETRY: Duration = Duration::from_millis(100);

/// So often a stretch is tried before it is left alone: the last time, where it waits for nothing
/// else, 51 s after the first.
const TRIES: u32 = 10;

/// What came of healing on request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Healed {
    /// Stretches that are one huge page again.
    pub healed: Vec<GpaRange>,
    /// Lost frames in them, which the guest keeps off by itself from now on, ordered and apart.
    pub entrusted: Vec<GpaRange>,
    /// Stretches that stayed as they were, and why.
    pub failed: Vec<Unhealed>,
}

/// A stretch that could not be healed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unhealed {
    /// Which.
    pub stretch: GpaRange,
    /// Why.
    pub reason: Reason,
}

/// A stretch that waits until it may be healed.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Its frames of which the guest knows that they are lost.
    acknowledged: BTreeSet<Gpa>,
    /// When a lost frame of it was last touched or acknowledged.
    quiet_since: Timestamp,
    /// How often it could not be healed.
    failures: u32,
}

impl<H: Host> Mender<H> {
    /// Heals what can be healed in `range`, whatever the policy. Pages that are being mended on demand
    /// are completed first.
    pub fn heal(&mut self, range: GpaRange) -> Healed {
        while self.step() {}
        let mut came = Healed::default();
        for stretch in self.stretches_in(range) {
            let Some(target) = self.broken_stretch(stretch.start()) else {
                continue;
            };
            let lost = target.marked.clone();
            match self.heal_stretch(target) {
                Ok(()) => {
                    came.healed.push(stretch);
                    came.entrusted.extend(lost);
                }
                Err(reason) => came.failed.push(Unhealed { stretch, reason }),
            }
        }
        came
    }

    /// The guest has acknowledged that the frame at `gpa` is lost.
    pub fn acknowledged(&mut self, gpa: Gpa) {
        if self.ledger.enforcement(gpa) != Some(Enforcement::Host) {
            return;
        }
        let Some(target) = self.broken_stretch(gpa) else {
            return;
        };
        if let Some(Heal::OnAck { .. }) = self.heal_policy(gpa) {
            let waiting = self.wait(target.page.start());
            waiting.acknowledged.insert(gpa.frame());
        }
    }

    /// When the next stretch is to be healed, as far as can be said now.
    pub fn next_heal(&self) -> Option<Timestamp> {
        let waiting = self.healing.keys();
        waiting.filter_map(|stretch| self.due(*stretch)).min()
    }

    /// Heals a stretch whose time has come. To be called when nothing is left for
    /// [`step`](Self::step), until it says that there is none.
    pub fn heal_due(&mut self) -> bool {
        if !self.streams.is_empty() {
            return false;
        }
        let now = self.host.now();
        let is_due = |stretch: &&Gpa| self.due(**stretch).is_some_and(|due| due <= now);
        let Some(stretch) = self.healing.keys().find(is_due).copied() else {
            return false;
        };
        let healed = self
            .broken_stretch(stretch)
            .map(|target| self.heal_stretch(target));
        let now = self.host.now();
        match self.healing.get_mut(&stretch) {
            Some(waiting) if matches!(healed, Some(Err(_))) && waiting.failures + 1 < TRIES => {
                (waiting.quiet_since, waiting.failures) = (now, waiting.failures + 1);
            }
            _ => drop(self.healing.remove(&stretch)),
        }
        true
    }

    /// Frames were recorded as lost.
    pub(super) fn heal_later(&mut self, lost: &[GpaRange]) {
        for range in lost {
            if self.heal_policy(range.start()) != Some(Heal::Now) {
                continue;
            }
            for stretch in self.stretches_in(*range) {
                if self.broken_stretch(stretch.start()).is_some() {
                    self.wait(stretch.start());
                }
            }
        }
    }

    /// A lost frame was touched, or failed once more.
    pub(super) fn met_lost(&mut self, job: &mut Job, fault: &Fault) {
        let gpa = job.gpa;
        if self.ledger.enforcement(gpa) == Some(Enforcement::Host) {
            let stretch = self.stretch_of(gpa).map(|stretch| stretch.start());
            let now = self.host.now();
            if let Some(waiting) = stretch.and_then(|start| self.healing.get_mut(&start)) {
                waiting.quiet_since = now;
            }
            return;
        }
        // Else the touch was earlier than the heal.
        if self.host.examine(fault, gpa) == Condition::Poisoned {
            let frame = job.frame();
            self.take_back(&mut job.trail, vec![frame]);
            self.heal_later(&[frame]);
        }
    }

    fn heal_policy(&self, gpa: Gpa) -> Option<Heal> {
        self.map.locate_gpa(gpa).map(|at| at.region.heal)
    }

    fn wait(&mut self, stretch: Gpa) -> &mut Waiting {
        let quiet_since = self.host.now();
        let waiting = self.healing.entry(stretch).or_insert_with(|| Waiting {
            acknowledged: BTreeSet::new(),
            quiet_since,
            failures: 0,
        });
        (waiting.quiet_since, waiting.failures) = (quiet_since, 0);
        waiting
    }

    /// When the stretch may be healed; none as long as that depends on the guest.
    fn due(&self, stretch: Gpa) -> Option<Timestamp> {
        let waiting = self.healing.get(&stretch)?;
        let retry = match waiting.failures {
            0 => Duration::ZERO,
            failures => RETRY * (1 << (failures - 1)),
        };
        let later = |after: Duration| {
            let nanos = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
            waiting.quiet_since.after(nanos)
        };
        match self.heal_policy(stretch)? {
            Heal::Never => None,
            Heal::Now => Some(later(retry)),
            Heal::OnAck { after } => {
                let stretch = self.stretch_of(stretch)?;
                let mut lost = self.ledger.enforced_in(&stretch);
                let known = |run: GpaRange| {
                    let mut frames = run.frames();
                    frames.all(|frame| waiting.acknowledged.contains(&frame))
                };
                lost.all(known).then(|| later(after.max(retry)))
            }
        }
    }

    /// What is healed as one: the largest page that new memory has.
    fn stretch_of(&self, gpa: Gpa) -> Option<GpaRange> {
        let region = self.map.locate_gpa(gpa)?.region;
        let size = region.page_size.min(STRETCH);
        size.is_huge().then(|| GpaRange::page(gpa, size))
    }

    /// The stretches that share addresses with `range`.
    fn stretches_in(&self, range: GpaRange) -> Vec<GpaRange> {
        let regions = self.map.regions();
        let in_region = |region: &Region| {
            let size = region.page_size.min(STRETCH);
            let shared = region.gpa.intersection(&range);
            let shared = shared.filter(|_| size.is_huge());
            shared.into_iter().flat_map(move |shared| {
                let first = GpaRange::page(shared.start(), size).start();
                let len = shared.end().get() - first.get();
                let whole = GpaRange::new(first, len.next_multiple_of(size.bytes()));
                whole.into_iter().flat_map(move |whole| whole.pages(size))
            })
        };
        regions.flat_map(in_region).collect()
    }

    /// The stretch around `gpa`, if it is small pages which a swap has put there, or if frames of it
    /// fault that a swap has put there.
    fn broken_stretch(&self, gpa: Gpa) -> Option<Target> {
        let at = self.map.locate_gpa(gpa)?;
        let (region, page) = (at.region, self.stretch_of(gpa)?);
        let segments = self.map.segments_in(&page);
        let [segment] = segments[..] else {
            return None;
        };
        // What was discarded has been told lost and is memory all the same.
        let swapped_in = segment.backing == Backing::Shmem
            && !region.was_configured_with(&segment)
            && region.policy != Policy::Discard;
        let marked: Vec<GpaRange> = self.ledger.enforced_in(&page).collect();
        let size = region.page_size.min(STRETCH);
        let broken = segment.page_size < size || !marked.is_empty();
        let offset = page.start().get() - region.gpa.start().get();
        (swapped_in && broken).then(|| Target {
            page,
            hva: region
                .hva_range()
                .at(offset)
                .expect("the stretch lies in its region"),
            segments,
            marked,
            largest: size,
        })
    }

    fn heal_stretch(&mut self, target: Target) -> Result<(), Reason> {
        let mut trail = Trail {
            fault: 0,
            page: target.page,
            mark: self.host.now(),
        };
        let healed = self.heal_with(&mut trail, target);
        healed.map_err(|reason| self.fail(&mut trail, reason))
    }

    fn heal_with(&mut self, trail: &mut Trail, target: Target) -> Result<(), Reason> {
        let staged = self.host.heal(&target);
        let stage = staged.map_err(|error| failed("heal", &error))?;
        let Target {
            page, marked: lost, ..
        } = target;
        if !lost.is_empty() {
            for run in &lost {
                self.ledger.entrust(*run);
            }
            self.publish(trail, Step::Entrust { lost: lost.clone() });
        }
        match self.put_in_place(page, stage) {
            Ok(Swapped { segments, .. }) => {
                self.totals.healed += 1;
                self.healing.remove(&page.start());
                self.publish(trail, Step::Heal { lost, segments });
                Ok(())
            }
            Err(reason) => {
                if !lost.is_empty() {
                    self.take_back(trail, lost);
                }
                Err(reason)
            }
        }
    }

    fn take_back(&mut self, trail: &mut Trail, lost: Vec<GpaRange>) {
        for run in &lost {
            self.ledger.take_back(*run);
        }
        self.publish(trail, Step::TakeBack { lost });
    }
}
