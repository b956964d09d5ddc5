//! A model of the host: Linux as the engine sees it, in memory of one word a frame.
//!
//! Every call can be made to fail, other threads run before and after each (`others`), and the
//! invariants are checked after each (`watch`). What is modelled is what was measured on real
//! kernels; the model decides nothing that the engine has to decide.

pub(crate) mod guest;
pub(crate) mod others;
pub(crate) mod physical;
pub(crate) mod stage;
pub(crate) mod violation;
pub(crate) mod vm;
pub(crate) mod watch;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use pagemend_core::address::{FRAME_SIZE, Gpa, GpaRange, PageSize};
use pagemend_core::event::Event;
use pagemend_core::fault::{Condition, Evidence, Fault};
use pagemend_core::host::{Host, Salvaged, Swapped, Target};
use pagemend_core::map::{Segment, Source};
use pagemend_core::plan::Capabilities;
use pagemend_core::time::Timestamp;

use guest::{FILLED, Guest};
use others::Others;
use physical::{Frame, Object, Physical, Place};
pub(crate) use stage::ModelStage;
use stage::sources;
use violation::Violation;
use watch::{Staged, Watch};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    #[error("call {call} was refused")]
    Refused { call: u64, source: io::Error },
    #[error("a lease did not end")]
    LeaseHeld,
    #[error("no file shows the page")]
    NoFileView,
    #[error("the staged memory failed")]
    StageFailed,
}

/// The host, its guest's memory, and everybody who uses it.
pub(crate) struct ModelHost {
    pub(crate) physical: Physical,
    pub(crate) guest: Guest,
    pub(crate) watch: Watch,
    pub(crate) others: Others,
    pub(crate) capabilities: Capabilities,
    /// Free huge pages.
    pub(crate) pool: BTreeMap<PageSize, u64>,
    /// Whether shared memory gets transparent huge pages.
    pub(crate) thp: bool,
    /// Guest addresses with no memory behind them, as in a truncated file.
    pub(crate) holes: BTreeSet<Gpa>,
    /// The call that fails, counted from 0 over those that can.
    pub(crate) refuse: Option<u64>,
    pub(crate) calls: u64,
    pub(crate) paused: bool,
    /// What is under each cover, by its object.
    pub(crate) covers: BTreeMap<u32, Vec<Place>>,
    /// A page of which each frame takes a microsecond to read.
    pub(crate) dear: Option<GpaRange>,
    clock: Cell<u64>,
}

impl ModelHost {
    /// What every call begins with: time for others, and its failure if it is its turn.
    fn enter(&mut self) -> Result<(), ModelError> {
        self.let_others_run();
        let call = self.calls;
        self.follow_script(call);
        self.calls += 1;
        if self.refuse == Some(call) || self.others.refuses() {
            let source = io::ErrorKind::OutOfMemory.into();
            return Err(ModelError::Refused { call, source });
        }
        Ok(())
    }

    /// What every call ends with, failed or not.
    fn leave<T>(&mut self, result: T) -> T {
        self.let_others_run();
        self.reap();
        self.watch.check(&self.guest, &self.physical);
        result
    }

    /// Time passes.
    pub(crate) fn pass(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).expect("an epoch is long");
        self.clock.set(self.clock.get() + nanos);
    }

    /// After a reset, what nobody calls lost can be used, unless it was hit again.
    fn check_renewed(&mut self) {
        let broken = self.guest.all().find(|(_, cell)| {
            let frame = self.physical.frame(cell.place);
            !cell.told && frame.faults() && !frame.is_struck()
        });
        if let Some((gpa, _)) = broken {
            self.watch.broken(Violation::HealthyByteLost { gpa });
        }
    }

    /// A rule of the host's contract.
    fn require(&mut self, kept: bool, what: &'static str) {
        if !kept {
            self.watch.broken(Violation::OutOfOrder { what });
        }
    }

    fn needs_claim(&mut self, page: GpaRange) {
        let claimed = self.watch.is_claimed(page);
        self.require(claimed, "a page is worked on that is not claimed");
    }
}

impl Host for ModelHost {
    type Stage = ModelStage;
    type Error = ModelError;

    fn now(&self) -> Timestamp {
        self.clock.set(self.clock.get() + 1);
        Timestamp::from_nanos(self.clock.get())
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn examine(&mut self, fault: &Fault, gpa: Gpa) -> Condition {
        self.let_others_run();
        let kept = self.physical.keeps(self.guest.cell(gpa).place);
        let harmless = !kept || fault.evidence == Evidence::AddressError;
        self.require(harmless, "a look at a kept page consumes the error again");
        let faults = self.guest.load(&self.physical, gpa).is_none();
        let condition = if self.holes.contains(&gpa.frame()) {
            Condition::Foreign
        } else if faults {
            Condition::Poisoned
        } else {
            Condition::Readable
        };
        self.leave(condition)
    }

    fn has_failed(&mut self, _segment: &Segment, gpa: Gpa) -> bool {
        self.let_others_run();
        let place = self.guest.cell(gpa).place;
        let failed = self.physical.has_file_view(place) && self.physical.is_unreadable(place);
        self.leave(failed)
    }

    fn claim(&mut self, page: GpaRange) -> Result<(), ModelError> {
        let claimed = |one: &GpaRange| one.overlaps(&page);
        let twice = self.watch.claimed.iter().any(claimed);
        self.require(!twice, "a page is claimed twice");
        let result = self.enter().and_then(|()| self.end_leases(page));
        if result.is_ok() {
            self.watch.claim(&self.guest, page);
            self.paused = self.others.pausable || self.watch.resetting;
        }
        self.leave(result)
    }

    fn release(&mut self, page: GpaRange) {
        self.let_others_run();
        self.needs_claim(page);
        self.reap();
        self.watch.release(page);
        let still = self.others.pausable && !self.watch.claimed.is_empty();
        self.paused = still || self.watch.resetting;
        self.leave(());
    }

    fn cover(&mut self, target: &Target) -> Result<(), ModelError> {
        let page = target.page;
        let claimed = self.watch.claimed.contains(&page);
        self.require(claimed, "a page is covered that is not claimed");
        let result = self.enter().map(|()| {
            let under = self.guest.places(page);
            let cover = self.physical.add(Object::cover(page.len() / FRAME_SIZE));
            self.guest.show(page, cover);
            self.covers.insert(cover, under);
            self.watch.covered(&self.guest, page);
        });
        self.leave(result)
    }

    fn stage(&mut self, target: &Target) -> Result<ModelStage, ModelError> {
        self.needs_claim(target.page);
        let right = target.hva == self.guest.hva(target.page.start());
        self.require(right, "the page is at another host address");
        let result = self.enter().map(|()| {
            let (page, largest) = (target.page, target.largest);
            // Small pages come in one stretch.
            let stretch = if largest.is_huge() {
                largest.bytes()
            } else {
                page.len()
            };
            let kinds = (0..page.len() / stretch).map(|_| self.take_pages(largest));
            let object = Object::new(page.len() / FRAME_SIZE, kinds.collect());
            let object = self.physical.add(object);
            let alive = Rc::new(());
            self.watch.staged.push(Staged {
                page,
                object,
                alive: Rc::downgrade(&alive),
            });
            ModelStage {
                page,
                object,
                sources: sources(target),
                largest,
                healed: None,
                _alive: alive,
            }
        });
        self.leave(result)
    }

    fn salvage(
        &mut self,
        stage: &mut ModelStage,
        offset: u64,
        len: u64,
    ) -> Result<Salvaged, ModelError> {
        self.needs_claim(stage.page);
        if self.dear.is_some_and(|dear| dear.covers(&stage.page)) {
            self.pass(Duration::from_micros(len / FRAME_SIZE));
        }
        let result = self
            .enter()
            .and_then(|()| self.read_into(stage, offset, len));
        self.leave(result)
    }

    fn poison(&mut self, stage: &mut ModelStage, lost: &[GpaRange]) -> Result<(), ModelError> {
        self.needs_claim(stage.page);
        let apart = lost.windows(2).all(|pair| pair[0].end() < pair[1].start());
        self.require(apart, "lost frames are ordered and apart");
        let mut frames = lost.iter().flat_map(GpaRange::frames);
        let result = self
            .enter()
            .and_then(|()| frames.try_for_each(|gpa| self.mark(stage, gpa)));
        self.leave(result)
    }

    fn swap(&mut self, stage: ModelStage) -> Result<Swapped, ModelError> {
        if let Some((segment, lost)) = stage.healed {
            return self.unmark(segment, &lost);
        }
        self.needs_claim(stage.page);
        let result = self.enter().map(|()| {
            let (page, object) = (stage.page, stage.object);
            let reasons = self.physical.object(object).smaller_pages(stage.largest);
            self.guest.show(page, object);
            self.watch.staged.retain(|one| one.object != object);
            self.watch.swapped(&self.guest, page);
            let segments = self.physical.object(object).segments(page, object);
            Swapped { segments, reasons }
        });
        drop(stage);
        self.leave(result)
    }

    fn heal(&mut self, target: &Target) -> Result<ModelStage, ModelError> {
        let page = target.page;
        let right = target.hva == self.guest.hva(page.start());
        self.require(right, "the page is at another host address");
        let [segment] = target.segments[..] else {
            panic!("a stretch is one segment: {:?}", target.segments);
        };
        let lost: Vec<Gpa> = target.marked.iter().flat_map(GpaRange::frames).collect();
        let mut places = lost.iter().map(|gpa| self.guest.cell(*gpa).place);
        let fault = places.all(|place| self.physical.frame(place).faults());
        self.require(fault, "memory is healed that the guest can use");
        let result = self.enter().and_then(|()| {
            // The kernel makes no huge page of pages that are pinned, or that it cannot read.
            let pinned = |lease: &others::Lease| page.contains(lease.gpa);
            if self.others.leases.iter().any(pinned) {
                return Err(ModelError::LeaseHeld);
            }
            let unreadable = |(gpa, cell): (Gpa, &guest::Cell)| {
                !lost.contains(&gpa) && self.physical.is_unreadable(cell.place)
            };
            if page.frames().zip(self.guest.cells(page)).any(unreadable) {
                return Err(ModelError::StageFailed);
            }
            for gpa in &lost {
                let place = self.guest.cell(*gpa).place;
                *self.physical.frame_mut(place) = Frame {
                    word: FILLED,
                    marked: true,
                    ..Frame::default()
                };
            }
            let object = self.guest.cell(page.start()).place.object;
            let healed = Segment {
                page_size: target.largest,
                ..segment
            };
            Ok(ModelStage {
                page,
                object,
                sources: None,
                largest: target.largest,
                healed: Some((healed, target.marked.clone())),
                _alive: Rc::new(()),
            })
        });
        self.leave(result)
    }

    fn renew(&mut self, frame: &Target) -> Result<(), ModelError> {
        self.needs_claim(frame.page);
        let apart = frame.page.len() == FRAME_SIZE && self.watch.resetting;
        self.require(
            apart,
            "memory is renewed in place only at a reset, by frames",
        );
        let result = self.enter().map(|()| {
            let place = self.guest.cell(frame.page.start()).place;
            *self.physical.frame_mut(place) = Frame::default();
            self.watch.renewed = Some(frame.page);
        });
        self.leave(result)
    }

    fn retire(&mut self, segments: &[Segment]) {
        self.let_others_run();
        for segment in segments {
            let Some(Source { file, offset }) = segment.source else {
                continue;
            };
            let frames = offset / FRAME_SIZE..(offset + segment.gpa.len()) / FRAME_SIZE;
            let given =
                |place: &Place| place.object == file.0 && frames.contains(&u64::from(place.frame));
            let used = self.guest.places(segment.gpa).iter().any(given);
            self.require(!used, "memory is given back that the guest uses");
        }
        self.leave(());
    }

    fn isolate(&mut self, frame: &Target) -> Result<(), ModelError> {
        let result = self.enter().map(|()| {
            for place in self.guest.places(frame.page) {
                self.physical.frame_mut(place).marked = true;
            }
        });
        self.leave(result)
    }

    fn publish(&mut self, event: &Event) {
        self.let_others_run();
        self.watch.hear(&mut self.guest, &self.physical, event);
        self.leave(());
    }
}
