//! What is reported while a fault is handled: one structured event for each step's outcome.
//!
//! The JSON form is described in `docs/events.md` and carries its schema's name and version.

use serde::{Deserialize, Serialize};

use crate::address::{Gpa, GpaRange};
use crate::fault::Verdict;
use crate::ledger::Cause;
use crate::map::Segment;
use crate::plan::{Action, Reason};
use crate::policy::Policy;
use crate::time::Timestamp;

/// Name and version of the events' JSON form.
pub const SCHEMA: &str = "pagemend.event/1";

/// The outcome of one step in the handling of one fault.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Name and version of this form: [`SCHEMA`].
    pub schema: &'static str,
    /// Which fault, counted from 1: ties the events of one fault together. 0 at a reset or a heal.
    pub fault: u64,
    /// When the step ended.
    pub time: Timestamp,
    /// How long the step took, in nanoseconds.
    pub duration_ns: u64,
    /// The page that the kernel took away, that is renewed at a reset, or that is healed.
    pub page: GpaRange,
    /// What happened.
    #[serde(flatten)]
    pub step: Step,
}

/// What happened in a step.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Step {
    /// A fault on guest memory arrived.
    Fault {
        /// The region that was hit.
        region: String,
        /// The address that was reported.
        gpa: Gpa,
        /// Whether somebody touched it.
        cause: Cause,
    },
    /// It was decided what to do.
    Plan {
        /// What the region's policy wants.
        policy: Policy,
        /// What will be done.
        action: Action,
        /// Why not more.
        reasons: Vec<Reason>,
    },
    /// Writers that page tables do not stop have stopped.
    Claim,
    /// New memory is at hand.
    Stage,
    /// The readable bytes are in it.
    Salvage {
        /// Bytes read.
        recovered_bytes: u64,
        /// What could not be read.
        lost: Vec<GpaRange>,
    },
    /// The page is mended on demand: every touch faults, and is answered when the part that was
    /// touched is there.
    Cover,
    /// Part of a page that is mended on demand is the guest's memory again.
    Fill {
        /// Which part.
        part: GpaRange,
        /// Whether somebody waits for it; else it is filled in the background.
        touched: bool,
        /// Bytes read.
        recovered_bytes: u64,
        /// What could not be read, and is marked.
        lost: Vec<GpaRange>,
        /// What the part consists of now.
        segments: Vec<Segment>,
        /// Where pages are smaller than fit.
        reasons: Vec<Reason>,
        /// Bytes of the page that are still to come.
        left_bytes: u64,
        /// What it took.
        took: FillTimes,
    },
    /// All of a page that is mended on demand has been filled, or told lost.
    Complete {
        /// Bytes read.
        recovered_bytes: u64,
        /// From the first fault's arrival, in nanoseconds.
        total_ns: u64,
    },
    /// The mender ends before a page is complete: what is missing goes on faulting.
    Cancel {
        /// Bytes of the page that are missing.
        left_bytes: u64,
    },
    /// The lost frames are marked: in it, or where the kernel left failed memory mapped, which for a
    /// huge page is all of it, before it is read.
    Poison {
        /// Bytes marked.
        marked_bytes: u64,
    },
    /// It is the guest's memory.
    Swap {
        /// What the page consists of now.
        segments: Vec<Segment>,
        /// Where pages are smaller than fit.
        reasons: Vec<Reason>,
    },
    /// Lost frames are the guest's to keep off: they are about to become memory that can be touched.
    Entrust {
        /// Which.
        lost: Vec<GpaRange>,
    },
    /// Lost frames fault again: their page could not be healed, or they have failed once more.
    TakeBack {
        /// Which.
        lost: Vec<GpaRange>,
    },
    /// A stretch that was broken up around lost frames is one huge page again.
    Heal {
        /// The lost frames that became memory which can be touched.
        lost: Vec<GpaRange>,
        /// What the stretch consists of now.
        segments: Vec<Segment>,
    },
    /// A step failed; the page is as it was, and will be abandoned, or recorded unmarked. Of a page
    /// that is mended on demand only the part is, to which the next record belongs. At a reset, what
    /// was lost of the page is lost still. A stretch that cannot be healed goes on as it was.
    Fail {
        /// Which step and what the host said.
        reason: Reason,
    },
    /// The loss is in the ledger.
    Record {
        /// The frames that this fault added to it.
        lost: Vec<GpaRange>,
        /// Bytes in them.
        lost_bytes: u64,
    },
    /// At a reset, a page has got fresh memory.
    Renew {
        /// What reads zero from now on: it was lost.
        zeroed: Vec<GpaRange>,
        /// What the page consists of now.
        segments: Vec<Segment>,
        /// Where pages are smaller than configured.
        reasons: Vec<Reason>,
    },
    /// The guest was reset, and the ledger cleared. The page of this event is all of guest memory,
    /// from its first byte to its last.
    Reset {
        /// Pages that got fresh memory.
        renewed_pages: u64,
        /// Frames that the ledger forgot.
        cleared_frames: u64,
        /// Frames that are lost still, because their page could not get fresh memory: the ledger has
        /// them as new losses, which this event tells.
        lost: Vec<GpaRange>,
    },
    /// The fault is answered.
    Done {
        /// What was done; none where the address was in order again or known to be lost.
        action: Option<Action>,
        /// The answer.
        #[serde(flatten)]
        verdict: Verdict,
        /// Why it was not more.
        reasons: Vec<Reason>,
        /// From the fault's arrival, in nanoseconds.
        total_ns: u64,
    },
}

/// What the steps took in which a part of a page came back, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FillTimes {
    /// Getting new memory.
    pub stage_ns: u64,
    /// Reading the bytes into it.
    pub salvage_ns: u64,
    /// Making the guest's view of it, with the lost frames marked.
    pub poison_ns: u64,
    /// Putting it in place.
    pub swap_ns: u64,
}

/// What has happened since the start, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Faults that were answered.
    pub faults: u64,
    /// Huge pages that were mended.
    pub mended: u64,
    /// Frames that were lost alone, because the kernel took no more.
    pub recorded: u64,
    /// Huge pages told lost whole and replaced.
    pub discarded: u64,
    /// Huge pages told lost whole and left poisoned.
    pub abandoned: u64,
    /// Stretches that are one huge page again.
    pub healed: u64,
    /// Faults whose address was in order by the time that it was looked at.
    pub stale: u64,
    /// Faults on frames that were known to be lost.
    pub repeated: u64,
    /// Faults that were no memory failures in guest memory.
    pub foreign: u64,
    /// Bytes read back from poisoned pages.
    pub recovered_bytes: u64,
}
