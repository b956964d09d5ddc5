//! Both ways behind one door: what is lost goes in, what the guest shows decides, and what waits
//! follows the decision.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use pagemend_core::address::{Gpa, GpaRange};
use serde::Serialize;

use super::capability::{Capability, Offered, SourceShown};
use super::choice::{Notify, Shown, Way, choose};
use crate::deliver::{self, MachineChecks};
use crate::ghes::{self, Condition, Records, Window};
use crate::queue::Queued;

/// The number of the only source.
const SOURCE: u16 = 0;

/// APEI in the capabilities that a guest names to the platform's `_OSC` (ACPI 6.5, table 6.15).
const OSC_APEI: u32 = 1 << 4;

/// What [`Router::osc`] was last told.
const UNASKED: u8 = 0;
const DECLINED: u8 = 1;
const WANTED: u8 = 2;

/// What became of a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Where its frames wait: kick all vCPUs for machine checks, see to
    /// [`tend`](Router::tend) being called for records.
    pub way: Way,
    /// How many of them.
    pub queued: Queued,
}

/// Frames that wait by another way than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// By which now: for machine checks, kick all vCPUs.
    pub to: Way,
    /// How many.
    pub frames: usize,
}

/// What came of looking after a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tended {
    /// What became of records.
    pub records: ghes::Tended,
    /// What waits by another way now.
    pub moved: Option<Moved>,
}

/// What was told and what was not, by both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By machine checks.
    pub machine_checks: deliver::Counts,
    /// By records.
    pub records: ghes::Counts,
}

/// Tells one guest.
#[derive(Debug)]
pub struct Router<W> {
    notify: Notify,
    offered: Offered,
    checks: Arc<MachineChecks>,
    records: OnceLock<Records<W>>,
    osc: AtomicU8,
}

impl<W: Window> Router<W> {
    /// For a guest with these machine checks and no source of records.
    pub fn new(notify: Notify, offered: Offered, checks: Arc<MachineChecks>) -> Self {
        Self {
            notify,
            offered,
            checks,
            records: OnceLock::new(),
            osc: AtomicU8::new(UNASKED),
        }
    }

    /// Gives the guest a source of records, which its tables name. To be called before it starts.
    ///
    /// # Errors
    ///
    /// The window's: the source cannot be written.
    ///
    /// # Panics
    ///
    /// If it has one.
    pub fn offer(&self, records: Records<W>) -> Result<(), W::Error> {
        records.reset()?;
        let taken = self.records.set(records);
        assert!(taken.is_ok(), "a guest has one source of records");
        Ok(())
    }

    /// The machine checks.
    pub fn machine_checks(&self) -> &Arc<MachineChecks> {
        &self.checks
    }

    /// The records.
    pub fn records(&self) -> Option<&Records<W>> {
        self.records.get()
    }

    /// What the guest has shown.
    pub fn shown(&self) -> Shown {
        Shown {
            signal: self.checks.config().signal,
            recovers: self.checks.config().recovers,
            machine_checks: self.checks.enabled(),
            apei: match self.osc.load(Ordering::Relaxed) {
                UNASKED => None,
                asked => Some(asked == WANTED),
            },
            records: self.records().map(Records::condition),
        }
    }

    fn way(&self) -> (Way, Option<&Records<W>>) {
        let way = choose(self.notify, &self.shown());
        (way, self.records().filter(|_| way == Way::Ghes))
    }

    /// The guest has named these capabilities to the platform's `_OSC`: their second word.
    pub fn osc(&self, support: u32) {
        let asked = if support & OSC_APEI != 0 {
            WANTED
        } else {
            DECLINED
        };
        self.osc.store(asked, Ordering::Relaxed);
    }

    /// Frames are lost: they wait to be told, by records not before `start`. `lost` is one loss.
    /// To be called from a listener of the mender.
    pub fn lost(&self, lost: impl IntoIterator<Item = GpaRange>, start: Instant) -> Routed {
        let (way, records) = self.way();
        let queued = match records {
            Some(records) => records.lost(lost, start),
            None => self.checks.lost(lost),
        };
        Routed { way, queued }
    }

    /// The guest was told of a frame as it touched it.
    pub fn told(&self, gpa: Gpa) {
        if let Some(records) = self.records() {
            records.told(gpa);
        }
    }

    /// Whether [`tend`](Self::tend) can have anything to do. Two loads.
    pub fn is_pending(&self) -> bool {
        self.records()
            .is_some_and(|records| records.is_pending() || self.checks.has_waiting())
    }

    /// Looks after records, and lets what waits change over where the guest has shown something
    /// else. To be called on a thread that is not the mender's: after a loss, when the answer asks
    /// for it, and, where something [is pending](Self::is_pending), as a vCPU comes by.
    ///
    /// # Errors
    ///
    /// The window's. The source is broken then, and what waited at it is told by the next call as
    /// [`Notify`] allows.
    pub fn tend(&self, now: Instant) -> Result<Tended, W::Error> {
        let mut tended = Tended::default();
        let Some(records) = self.records() else {
            return Ok(tended);
        };
        tended.records = records.tend(now)?;
        tended.moved = self.change_over(records, now);
        if matches!(tended.moved, Some(Moved { to: Way::Ghes, .. })) {
            let posted = records.tend(now)?;
            tended.records.posted.extend(posted.posted);
            tended.records.look_after = posted.look_after;
        }
        Ok(tended)
    }

    fn change_over(&self, records: &Records<W>, now: Instant) -> Option<Moved> {
        // A source that cannot be used leaves the other way, whatever is wanted.
        let unusable = records.condition() == Condition::Broken;
        let way = match choose(self.notify, &self.shown()) {
            Way::Ghes if unusable => Way::Mce,
            way => way,
        };
        let frames = match way {
            Way::Mce => {
                if !records.is_pending() {
                    return None;
                }
                let frames = records.take_waiting();
                self.checks.wait(frames.iter().copied());
                frames
            }
            Way::Ghes => {
                if !self.checks.has_waiting() {
                    return None;
                }
                let frames = self.checks.take_waiting();
                records.wait(frames.iter().copied(), now);
                frames
            }
        };
        (!frames.is_empty()).then_some(Moved {
            to: way,
            frames: frames.len(),
        })
    }

    /// Frames of which the guest has not heard.
    pub fn waiting(&self) -> Vec<Gpa> {
        let mut waiting = self.checks.waiting();
        waiting.extend(self.records().into_iter().flat_map(Records::waiting));
        waiting
    }

    /// What was told and what was not.
    pub fn counts(&self) -> Counts {
        Counts {
            machine_checks: self.checks.counts(),
            records: self
                .records()
                .map_or_else(Default::default, Records::counts),
        }
    }

    /// What the guest can be told by, as far as is known.
    pub fn capability(&self) -> Capability {
        let shown = self.shown();
        let source = |condition| SourceShown {
            id: SOURCE,
            condition,
        };
        Capability {
            notify: self.notify,
            way: choose(self.notify, &shown),
            offered: self.offered,
            machine_checks: shown.machine_checks,
            osc_apei: shown.apei,
            sources: shown.records.map(source).into_iter().collect(),
        }
    }

    /// The guest is reset: what it has not heard of is not told any more, and given back; what it
    /// has shown is forgotten. To be called while no vCPU runs, after its memory was renewed.
    ///
    /// # Errors
    ///
    /// The window's. The source is broken then; machine checks are not concerned.
    pub fn reset(&self) -> Result<Vec<Gpa>, W::Error> {
        self.osc.store(UNASKED, Ordering::Relaxed);
        let mut dropped = self.checks.reset();
        if let Some(records) = self.records() {
            dropped.extend(records.reset()?);
        }
        Ok(dropped)
    }
}
