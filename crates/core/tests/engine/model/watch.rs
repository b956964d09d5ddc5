//! The invariant checker: it sees every call and every event, and the memory after each.
//!
//! It knows nothing of how the engine works. It compares what the guest would read with what the
//! guest wrote, and what was told with what is lost.

use std::rc::Weak;

use pagemend_core::address::{FRAME_SIZE, Gpa, GpaRange};
use pagemend_core::event::{Event, Step};
use pagemend_core::fault::Verdict;
use pagemend_core::ledger::{Enforcement, Ledger};
use pagemend_core::plan::{Action, Reason};
use pagemend_core::policy::Policy;

use super::guest::{Cell, Guest, Truth};
use super::physical::{Physical, Place, index};
use super::violation::Violation;

/// New memory that was handed out and is not the guest's.
pub(crate) struct Staged {
    pub(crate) page: GpaRange,
    pub(crate) object: u32,
    /// Ends with the stage that the engine holds.
    pub(crate) alive: Weak<()>,
}

/// The fault that is being handled.
struct Current {
    page: GpaRange,
    /// What it showed when the fault came.
    before: Vec<Place>,
    /// What it has to show now.
    shown: Vec<Place>,
    action: Option<Action>,
    failed: Option<Reason>,
}

impl Current {
    /// What of it shows other memory from now on.
    fn show(&mut self, guest: &Guest, range: GpaRange) {
        if let Some(both) = self.page.intersection(&range) {
            let first = both.start().get() - self.page.start().get();
            let first = index(first / FRAME_SIZE);
            let places = guest.places(both);
            self.shown[first..][..places.len()].copy_from_slice(&places);
        }
    }

    /// The first frame that is neither told lost nor can be used, though no error is why.
    fn first_missing(&self, guest: &Guest, physical: &Physical) -> Option<Gpa> {
        let mut cells = self.page.frames().zip(guest.cells(self.page));
        let missing = cells.find(|(_, cell)| {
            let frame = physical.frame(cell.place);
            !cell.told && frame.faults() && !frame.is_struck()
        });
        missing.map(|(gpa, _)| gpa)
    }

    fn of(guest: &Guest, page: GpaRange) -> Self {
        Self {
            page,
            before: guest.places(page),
            shown: guest.places(page),
            action: None,
            failed: None,
        }
    }
}

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) violations: Vec<Violation>,
    pub(crate) events: Vec<Event>,
    pub(crate) claimed: Vec<GpaRange>,
    pub(crate) staged: Vec<Staged>,
    /// The guest stands still and is given fresh memory.
    pub(crate) resetting: bool,
    /// What the host has renewed where it is, last.
    pub(crate) renewed: Option<GpaRange>,
    current: Option<Current>,
    /// Pages that are mended on demand: covered, and not complete.
    streams: Vec<Current>,
    told: u64,
    /// Frames that were told lost and are fresh memory since the present reset.
    forgotten: u64,
}

impl Watch {
    pub(crate) fn broken(&mut self, violation: Violation) {
        self.violations.push(violation);
    }

    /// The page that the engine is working on.
    pub(crate) fn page(&self) -> Option<GpaRange> {
        self.current.as_ref().map(|current| current.page)
    }

    /// A page is claimed. At a reset that is the first that is heard of it.
    pub(crate) fn claim(&mut self, guest: &Guest, page: GpaRange) {
        self.claimed.push(page);
        if self.resetting {
            self.current = Some(Current::of(guest, page));
        }
    }

    /// Whether all of `page` is claimed.
    pub(crate) fn is_claimed(&self, page: GpaRange) -> bool {
        self.claimed.iter().any(|claimed| claimed.covers(&page))
    }

    /// A page that is mended on demand, if there is one.
    pub(crate) fn streaming(&self) -> Option<GpaRange> {
        self.streams.first().map(|stream| stream.page)
    }

    /// A claimed page is covered: it is mended on demand.
    pub(crate) fn covered(&mut self, guest: &Guest, page: GpaRange) {
        self.swapped(guest, page);
        match self.current.take_if(|current| current.page == page) {
            Some(current) => self.streams.push(current),
            None => self.broken(Violation::OutOfOrder {
                what: "a page is covered without a fault on it",
            }),
        }
    }

    /// The page that an event is about.
    fn about(&mut self, page: GpaRange) -> Option<&mut Current> {
        let current = self.current.iter_mut().chain(&mut self.streams);
        current.into_iter().find(|current| current.page == page)
    }

    /// The claimed page is released.
    pub(crate) fn release(&mut self, page: GpaRange) {
        self.claimed.retain(|claimed| *claimed != page);
        if self.resetting && !self.staged.is_empty() {
            self.broken(Violation::Leak);
        }
    }

    /// What has to hold at any time.
    pub(crate) fn check(&mut self, guest: &Guest, physical: &Physical) {
        // At a reset it is said afterwards what reads zero, and nobody reads before.
        let unread = self.resetting.then(|| self.page()).flatten();
        if let Some((gpa, read)) = guest.first_wrong(physical, unread) {
            let truth = guest.cell(gpa).truth;
            self.broken(Violation::SilentCorruption { gpa, read, truth });
        }
        let wrong = |current: &&Current| !guest.shows(current.page, &current.shown);
        let wrong = self.current.iter().chain(&self.streams).find(wrong);
        if let Some(page) = wrong.map(|current| current.page) {
            self.broken(Violation::HalfDone { page });
        }
        if self.staged.iter().any(|one| !self.is_claimed(one.page)) {
            let what = "memory is staged for a page that is not claimed";
            self.broken(Violation::OutOfOrder { what });
        }
    }

    /// The host swapped `page`, as the engine asked it to.
    pub(crate) fn swapped(&mut self, guest: &Guest, page: GpaRange) {
        if guest.consumers(page.start()).iter().any(|one| !one.follows) {
            self.broken(Violation::TwoViews { page });
        }
        for current in self.current.iter_mut().chain(&mut self.streams) {
            current.show(guest, page);
        }
    }

    /// An event, as every listener gets it.
    pub(crate) fn hear(&mut self, guest: &mut Guest, physical: &Physical, event: &Event) {
        let page = event.page;
        match &event.step {
            Step::Fault { .. } => {
                self.current = Some(Current::of(guest, page));
            }
            Step::Plan { action, .. } => {
                if let Some(current) = &mut self.current {
                    current.action = Some(*action);
                }
            }
            Step::Fail { reason } => {
                if let Some(current) = self.about(page) {
                    current.failed = Some(reason.clone());
                }
                // At a reset nothing more is heard of the page.
                self.current.take_if(|_| self.resetting);
            }
            Step::Record { lost, lost_bytes } => {
                let told = self.told;
                for gpa in lost.iter().flat_map(GpaRange::frames) {
                    self.tell(guest, physical, page, gpa);
                }
                // Of a page that is mended on demand, only this part has failed.
                for stream in &mut self.streams {
                    stream.failed.take_if(|_| stream.page == page);
                }
                if *lost_bytes != (self.told - told) * FRAME_SIZE {
                    let gpa = page.start();
                    self.broken(Violation::ToldWrongly { gpa });
                }
            }
            Step::Renew { zeroed, .. } => {
                for gpa in zeroed.iter().flat_map(GpaRange::frames) {
                    self.forget(guest, physical, gpa);
                }
                self.current = None;
            }
            Step::Reset {
                cleared_frames,
                lost,
                ..
            } => {
                let lost: u64 = lost.iter().map(GpaRange::len).sum();
                if self.told != lost / FRAME_SIZE || *cleared_frames != self.forgotten {
                    self.broken(Violation::LedgerDiffers);
                }
                (self.forgotten, self.current) = (0, None);
            }
            Step::Entrust { lost } => self.entrust(guest, lost, true),
            Step::TakeBack { lost } => self.entrust(guest, lost, false),
            Step::Complete { .. } => self.complete(guest, physical, page),
            Step::Cancel { .. } => self.streams.retain(|stream| stream.page != page),
            done @ Step::Done { .. } => self.finish(guest, physical, done),
            _ => {}
        }
        self.events.push(event.clone());
    }

    /// Somebody hears that a frame is lost.
    fn tell(&mut self, guest: &mut Guest, physical: &Physical, page: GpaRange, gpa: Gpa) {
        let Some(current) = self.about(page) else {
            return self.broken(Violation::ToldWrongly { gpa });
        };
        let Some(offset) = current.page.offset_of(gpa) else {
            return self.broken(Violation::ToldWrongly { gpa });
        };
        if guest.cell(gpa).told {
            return self.broken(Violation::ToldWrongly { gpa });
        }
        // Where nothing failed and no policy gives the rest up, only an error loses a frame.
        let spares = [Action::Mend, Action::Record, Action::Keep].map(Some);
        let was = current.before[index(offset / FRAME_SIZE)];
        if current.failed.is_none()
            && spares.contains(&current.action)
            && !physical.is_unreadable(was)
        {
            self.broken(Violation::HealthyByteLost { gpa });
        }
        guest.tell(gpa);
        self.told += 1;
    }

    /// Everybody hears that a frame is fresh memory. It must have been lost, or unreadable.
    fn forget(&mut self, guest: &mut Guest, physical: &Physical, gpa: Gpa) {
        let was = self.current.as_ref().and_then(|current| {
            let offset = current.page.offset_of(gpa)?;
            Some(current.before[index(offset / FRAME_SIZE)])
        });
        let Cell { told, place, .. } = *guest.cell(gpa);
        let fresh = was != Some(place) || self.renewed.is_some_and(|page| page.contains(gpa));
        if !fresh {
            self.broken(Violation::NotRenewed { gpa });
        }
        if !told && !was.is_some_and(|was| physical.is_unreadable(was)) {
            self.broken(Violation::HealthyByteLost { gpa });
        }
        self.told -= u64::from(told);
        self.forgotten += u64::from(told);
        guest.renew(gpa);
    }

    /// Everybody hears that the guest keeps off lost frames by itself, or does not have to any more.
    fn entrust(&mut self, guest: &mut Guest, lost: &[GpaRange], entrusted: bool) {
        for gpa in lost.iter().flat_map(GpaRange::frames) {
            let Cell { told, truth, .. } = *guest.cell(gpa);
            if !told || (truth == Truth::Gone) != entrusted {
                self.broken(Violation::ToldWrongly { gpa });
            }
            guest.entrust(gpa, entrusted);
        }
    }

    /// All of a page that was mended on demand is accounted for.
    fn complete(&mut self, guest: &Guest, physical: &Physical, page: GpaRange) {
        let Some(place) = self.streams.iter().position(|stream| stream.page == page) else {
            let what = "a page is complete that was not being filled";
            return self.broken(Violation::OutOfOrder { what });
        };
        let stream = self.streams.remove(place);
        if let Some(gpa) = stream.first_missing(guest, physical) {
            self.broken(Violation::HealthyByteLost { gpa });
        }
        if self.is_claimed(page) {
            let what = "a page stays claimed";
            self.broken(Violation::OutOfOrder { what });
        }
    }

    /// The fault was dealt with: all of the page is accounted for.
    fn finish(&mut self, guest: &Guest, physical: &Physical, done: &Step) {
        let streaming = |page: &GpaRange| self.streams.iter().any(|one| one.page == *page);
        if !self.claimed.iter().all(streaming) {
            let what = "a page stays claimed";
            self.broken(Violation::OutOfOrder { what });
        }
        if !self.staged.is_empty() {
            self.broken(Violation::Leak);
        }
        // Without a current fault the address was in order or known to be lost.
        let (
            Some(current),
            Step::Done {
                action, reasons, ..
            },
        ) = (self.current.take(), done)
        else {
            return;
        };
        let page = current.page;
        let honest = match &current.failed {
            Some(reason) => *action == Some(Action::Abandon) && reasons.contains(reason),
            None => *action == current.action,
        };
        if !honest {
            self.broken(Violation::FailureHidden { page });
        }
        for (gpa, cell) in page.frames().zip(guest.cells(page)) {
            let frame = physical.frame(cell.place);
            match action {
                Some(Action::Mend) if frame.marked && !cell.told => {
                    self.broken(Violation::LossNotTold { gpa });
                }
                Some(Action::Mend) if frame.faults() && !cell.told && !frame.is_struck() => {
                    self.broken(Violation::HealthyByteLost { gpa });
                }
                Some(Action::Abandon | Action::Discard) if !cell.told => {
                    self.broken(Violation::LossNotTold { gpa });
                }
                _ => {}
            }
        }
    }

    /// The one who met the fault is about to go on as `verdict` says.
    pub(crate) fn answered(&mut self, guest: &Guest, gpa: Gpa, verdict: Verdict) {
        let told = guest.cell(gpa).told;
        let honest = match verdict {
            Verdict::Lost { gpa: lost } => told && lost == gpa.frame(),
            Verdict::Mended => !told,
            Verdict::NotOurs => false,
        };
        if !honest {
            self.broken(Violation::LossNotTold { gpa });
        }
    }

    /// Whether the ledger holds what was told, no more and no less.
    pub(crate) fn agrees_with(&self, guest: &Guest, ledger: &Ledger) -> bool {
        let agree = |gpa: Gpa| {
            let Cell { told, truth, .. } = *guest.cell(gpa);
            let usable = match guest.policy(gpa) {
                Policy::Discard => Enforcement::Host,
                _ if truth == Truth::Gone => Enforcement::Host,
                _ => Enforcement::Guest,
            };
            told && ledger.enforcement(gpa) == Some(usable)
        };
        ledger.len() == self.told && ledger.iter().all(agree)
    }
}
