//! The mender: takes one fault from its arrival to its answer.
//!
//! One direction, no way back: locate, examine, plan, claim, stage, salvage, poison, swap, record,
//! tell, answer. The new memory is finished, with the lost frames marked in it, before anyone can
//! see it; so the swap is the only moment at which the guest's memory changes, and a failure
//! before it changes nothing.
//!
//! The mender handles one fault at a time, which is what makes a huge page be mended once: a
//! fault that arrives for the same page meanwhile finds it in order when its turn comes. A page that
//! is mended on demand comes back in parts, each of which goes this way by itself (`stream`).

mod heal;
mod replace;
mod reset;
mod stream;

use std::collections::{BTreeMap, VecDeque};

use crate::address::{Gpa, GpaRange, PageSize};
use crate::event::{Event, SCHEMA, Step, Totals};
use crate::fault::{Condition, Evidence, Fault, Verdict};
use crate::host::{Host, Target};
use crate::ledger::{Cause, Ledger, RecipientId};
use crate::map::{MapError, MemoryMap, Region};
use crate::plan::{Action, Case, Plan, Reason, plan};
use crate::policy::{Filling, Policy};
use crate::time::Timestamp;

use heal::Waiting;
pub use heal::{Healed, Unhealed};
pub use reset::Reset;
pub use stream::Progress;
use stream::Stream;

/// Handles faults on a host, and owns the map and the ledger of one guest.
#[derive(Debug)]
pub struct Mender<H> {
    host: H,
    map: MemoryMap,
    ledger: Ledger,
    recipients: Vec<RecipientId>,
    totals: Totals,
    /// Pages that are mended on demand, in the order of their turns.
    streams: VecDeque<Stream>,
    /// Stretches that wait to be healed, by their first address.
    healing: BTreeMap<Gpa, Waiting>,
}

/// What the events of one page's way have in common.
#[derive(Debug)]
struct Trail {
    /// Which fault; 0 at a reset or a heal.
    fault: u64,
    page: GpaRange,
    /// When the step before this one ended.
    mark: Timestamp,
}

/// A fault on its way, with what was found out about it.
struct Job {
    trail: Trail,
    cause: Cause,
    gpa: Gpa,
    target: Target,
    policy: Policy,
    filling: Filling,
    /// Why less was done than was wanted.
    reasons: Vec<Reason>,
    /// Whether the memory can still be touched, although it failed.
    exposed: bool,
    /// When the fault arrived.
    arrived: Timestamp,
}

impl Job {
    fn page(&self) -> GpaRange {
        self.target.page
    }

    fn frame(&self) -> GpaRange {
        GpaRange::page(self.gpa, PageSize::SIZE_4K)
    }

    /// What was met, and how.
    fn met(&self) -> Option<(Gpa, Cause)> {
        Some((self.gpa, self.cause))
    }
}

impl<H: Host> Mender<H> {
    /// A mender for a guest without memory yet. The ledger notes that each of `recipients` was
    /// told of a loss once the host's [`publish`](Host::publish) of it has returned.
    pub fn new<'a>(host: H, recipients: impl IntoIterator<Item = &'a str>) -> Self {
        let mut ledger = Ledger::new();
        let recipients = recipients
            .into_iter()
            .map(|name| ledger.register(name))
            .collect();
        Self {
            host,
            map: MemoryMap::new(),
            ledger,
            recipients,
            totals: Totals::default(),
            streams: VecDeque::new(),
            healing: BTreeMap::new(),
        }
    }

    /// Adds a region of guest memory.
    pub fn add_region(&mut self, region: Region) -> Result<(), MapError> {
        self.map.add(region)
    }

    /// The guest's memory as it is now.
    pub fn map(&self) -> &MemoryMap {
        &self.map
    }

    /// The lost frames.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The host.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The host, to be told what it has to know besides faults.
    pub fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// What has happened so far, in numbers.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Handles a fault. When this returns, a loss is in the ledger and everyone who listens has
    /// been told, so whoever met the fault may go on as the verdict says.
    pub fn handle(&mut self, fault: Fault) -> Verdict {
        let arrived = self.host.now();
        self.totals.faults += 1;
        let Some(location) = self.map.locate_hva(fault.address) else {
            self.totals.foreign += 1;
            return Verdict::NotOurs;
        };
        let (region, segment, gpa) = (location.region, *location.segment, location.gpa);
        let page = segment.page_lost_with(gpa);
        let plan = plan(&Case {
            segment: &segment,
            policy: region.policy,
            consumers: &region.consumers,
            capabilities: self.host.capabilities(),
        });
        let unit = segment.backing.unit_of_loss(segment.page_size);
        let mut job = Job {
            trail: Trail {
                fault: self.totals.faults,
                page,
                mark: arrived,
            },
            cause: fault.cause,
            gpa,
            target: Target {
                page,
                hva: fault.address.align_down(unit),
                segments: self.map.segments_in(&page),
                marked: vec![],
                largest: unit,
            },
            policy: region.policy,
            filling: region.filling,
            reasons: vec![],
            exposed: false,
            arrived,
        };
        let configured = region.was_configured_with(&segment);
        let region = region.name.clone();

        if self.ledger.contains(gpa) {
            self.totals.repeated += 1;
            self.met_lost(&mut job, &fault);
            return self.answer(&mut job, None);
        }
        if self.fill_touched(&job) {
            return self.answer(&mut job, None);
        }
        // A page that the kernel keeps mapped must not be looked at: the look would consume the
        // error once more. But such a kernel calls a memory failure by its name.
        if plan.action != Action::Keep || fault.evidence == Evidence::AddressError {
            match self.host.examine(&fault, gpa) {
                Condition::Poisoned => {}
                // Nothing has put it right, so nothing is: the kernel could not take it out of the
                // mappings, as it does with a transparent huge page that it cannot split. Of what came
                // in a failed page's place only its file knows whether the report is about that page
                // or about what came.
                Condition::Readable
                    if fault.evidence == Evidence::MemoryFailure
                        && (configured || self.host.has_failed(&segment, gpa)) =>
                {
                    job.exposed = true;
                }
                Condition::Readable => {
                    self.totals.stale += 1;
                    return self.answer(&mut job, None);
                }
                Condition::Foreign => {
                    self.totals.foreign += 1;
                    return Verdict::NotOurs;
                }
            }
        }
        let cause = fault.cause;
        self.publish(&mut job.trail, Step::Fault { region, gpa, cause });
        self.carry_out(&mut job, plan)
    }

    fn carry_out(&mut self, job: &mut Job, plan: Plan) -> Verdict {
        let Plan { action, reasons } = plan;
        job.reasons = reasons.clone();
        let planned = Step::Plan {
            policy: job.policy,
            action,
            reasons,
        };
        self.publish(&mut job.trail, planned);
        let done = match action {
            Action::Record | Action::Keep => {
                self.isolate_if_possible(job);
                let frame = job.frame();
                self.record_met(job, &[frame]);
                self.totals.recorded += 1;
                action
            }
            Action::Abandon => self.abandon(job),
            Action::Mend | Action::Discard => match self.replace(job, action) {
                Ok(()) => action,
                Err(reason) => {
                    let reason = self.fail(&mut job.trail, reason);
                    job.reasons.push(reason);
                    self.abandon(job)
                }
            },
        };
        self.answer(job, Some(done))
    }

    fn fail(&mut self, trail: &mut Trail, reason: Reason) -> Reason {
        let step = Step::Fail {
            reason: reason.clone(),
        };
        self.publish(trail, step);
        reason
    }

    /// Makes touches fault where the kernel could not.
    fn isolate(&mut self, job: &mut Job) -> Result<(), Reason> {
        if !job.exposed {
            return Ok(());
        }
        let isolated = self.host.isolate(&job.target);
        let marked_bytes = job.page().len();
        self.passed(&mut job.trail, isolated, "isolate", |()| Step::Poison {
            marked_bytes,
        })?;
        job.exposed = false;
        Ok(())
    }

    /// The same, where what was lost is recorded in any case.
    fn isolate_if_possible(&mut self, job: &mut Job) {
        if let Err(reason) = self.isolate(job) {
            let reason = self.fail(&mut job.trail, reason);
            job.reasons.push(reason);
        }
    }

    /// The whole page is lost and stays poisoned: what every way that fails comes down to.
    fn abandon(&mut self, job: &mut Job) -> Action {
        self.isolate_if_possible(job);
        let page = job.page();
        self.record_met(job, &[page]);
        self.totals.abandoned += 1;
        Action::Abandon
    }

    /// Records what was lost with what a fault has met.
    fn record_met(&mut self, job: &mut Job, lost: &[GpaRange]) {
        let met = job.met();
        self.record(&mut job.trail, lost, met);
    }

    /// Puts into the ledger what of `lost` is not there yet, and tells everyone who listens.
    fn record(&mut self, trail: &mut Trail, lost: &[GpaRange], met: Option<(Gpa, Cause)>) {
        let added: Vec<GpaRange> = lost
            .iter()
            .flat_map(|range| self.ledger.gaps_in(range))
            .collect();
        if added.is_empty() {
            return;
        }
        let time = self.host.now();
        for range in &added {
            // Somebody met the one frame; of the others nobody knew.
            if let Some((gpa, cause)) = met.filter(|(gpa, _)| range.contains(*gpa)) {
                self.ledger.insert(gpa, cause, time);
            }
            self.ledger
                .insert_range(*range, Cause::ActionOptional, time);
        }
        self.heal_later(&added);
        let lost_bytes = added.iter().map(GpaRange::len).sum();
        let step = Step::Record {
            lost: added,
            lost_bytes,
        };
        self.publish(trail, step);
        self.told();
    }

    /// Everybody who listens has heard of all losses up to now.
    fn told(&mut self) {
        let told = self.ledger.generation();
        for recipient in &self.recipients {
            self.ledger.tell_before(*recipient, told);
        }
    }

    fn answer(&mut self, job: &mut Job, action: Option<Action>) -> Verdict {
        let verdict = match self.ledger.contains(job.gpa) {
            true => Verdict::Lost {
                gpa: job.gpa.frame(),
            },
            false => Verdict::Mended,
        };
        let total_ns = self.host.now().since(job.arrived);
        let done = Step::Done {
            action,
            verdict,
            reasons: std::mem::take(&mut job.reasons),
            total_ns,
        };
        self.publish(&mut job.trail, done);
        verdict
    }

    /// Publishes a step that passed, or turns its error into the reason.
    fn passed<T>(
        &mut self,
        trail: &mut Trail,
        result: Result<T, H::Error>,
        name: &'static str,
        step: impl FnOnce(&T) -> Step,
    ) -> Result<T, Reason> {
        let value = result.map_err(|error| failed(name, &error))?;
        let step = step(&value);
        self.publish(trail, step);
        Ok(value)
    }

    fn publish(&mut self, trail: &mut Trail, step: Step) {
        let time = self.host.now();
        let event = Event {
            schema: SCHEMA,
            fault: trail.fault,
            time,
            duration_ns: time.since(trail.mark),
            page: trail.page,
            step,
        };
        self.host.publish(&event);
        // What listeners take is not part of the next step.
        trail.mark = self.host.now();
    }
}

/// The reason that a host's error is, with the whole chain of causes.
fn failed(step: &str, error: &dyn std::error::Error) -> Reason {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Reason::StepFailed {
        step: step.to_owned(),
        error: text,
    }
}
