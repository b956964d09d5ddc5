//! Everybody besides the engine: vCPUs, devices and particles, in an order that a seed decides.
//!
//! They run before and after each host call. Who faults waits in a queue, and is answered when
//! the engine has time for it, as its turn comes on a real host.

use std::collections::VecDeque;

use oorandom::Rand32;
use pagemend_core::address::{Gpa, GpaRange};
use pagemend_core::fault::{Evidence, Fault};
use pagemend_core::ledger::Cause;

use super::guest::Truth;
use super::physical::Place;
use super::violation::Violation;
use super::{ModelError, ModelHost};

/// A fault that waits for its answer.
pub(crate) struct Waiter {
    pub(crate) fault: Fault,
    pub(crate) gpa: Gpa,
    /// Whether somebody touched it, who will do it again when told that all is well.
    pub(crate) touch: Option<Touch>,
}

/// What a thread does with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    Load,
    Store,
}

/// A frame that a device was given: it writes where the frame was then.
pub(crate) struct Lease {
    pub(crate) gpa: Gpa,
    place: Place,
    /// It never ends by itself.
    stubborn: bool,
}

/// Something that happens just before the host call of a given number.
pub(crate) enum Happening {
    /// An error in guest memory.
    Error(Gpa),
    /// An error in this frame of the staged memory.
    StageError(u32),
    /// A thread touches a frame.
    Touch(Gpa, Touch),
}

/// What a seed may still do.
#[derive(Clone, Copy)]
pub(crate) struct Budget {
    pub(crate) touches: u32,
    pub(crate) errors: u32,
    /// How many calls in a hundred fail.
    pub(crate) refused_percent: u32,
}

/// The others.
pub(crate) struct Others {
    /// Without one they do nothing by themselves.
    pub(crate) random: Option<Rand32>,
    pub(crate) budget: Budget,
    /// What happens before which call.
    pub(crate) script: Vec<(u64, Happening)>,
    pub(crate) queue: VecDeque<Waiter>,
    pub(crate) leases: Vec<Lease>,
    /// How this kernel reports failed memory.
    pub(crate) evidence: Evidence,
    /// Whether the VMM stops its threads while a page is claimed.
    pub(crate) pausable: bool,
}

impl Others {
    /// Whether the call at hand fails by chance.
    pub(super) fn refuses(&mut self) -> bool {
        let percent = self.budget.refused_percent;
        self.random
            .as_mut()
            .is_some_and(|random| chance(random, percent))
    }

    /// Whether the engine does something in the background before it answers who waits.
    pub(crate) fn are_slow(&mut self) -> bool {
        self.random
            .as_mut()
            .is_some_and(|random| chance(random, 30))
    }

    /// Whether something happens now that does so `percent` times in a hundred.
    pub(crate) fn happens(&mut self, percent: u32) -> bool {
        let random = self.random.as_mut();
        random.is_some_and(|random| chance(random, percent))
    }

    /// Reads may be short, even in the middle of a frame.
    pub(super) fn shorten(&mut self, len: u64) -> u64 {
        // Half frames, so that every length occurs in small pages too.
        let halves = u32::try_from(len / 2048).unwrap_or(u32::MAX);
        match &mut self.random {
            Some(random) if halves > 1 => match chance(random, 40) {
                true => 2048 * u64::from(random.rand_range(1..halves)),
                false => len,
            },
            _ => len,
        }
    }
}

/// True `percent` times in a hundred.
pub(crate) fn chance(random: &mut Rand32, percent: u32) -> bool {
    random.rand_range(0..100) < percent
}

impl ModelHost {
    /// A thread touches a frame. What it reads has to be what was written; if it faults, it waits.
    pub(crate) fn touch(&mut self, gpa: Gpa, touch: Touch) -> Option<()> {
        let done = match touch {
            Touch::Store => self.guest.store(&mut self.physical, gpa),
            Touch::Load => self.guest.load(&self.physical, gpa).map(|read| {
                let truth = self.guest.cell(gpa).truth;
                if truth != Truth::Word(read) {
                    self.watch
                        .broken(Violation::SilentCorruption { gpa, read, truth });
                }
            }),
        };
        if done.is_none() {
            self.report(gpa, Cause::ActionRequired, Some(touch));
        }
        done
    }

    /// Queues a report of failed memory.
    pub(crate) fn report(&mut self, gpa: Gpa, cause: Cause, touch: Option<Touch>) {
        let fault = Fault {
            address: self.guest.hva(gpa),
            cause,
            evidence: self.others.evidence,
        };
        self.others.queue.push_back(Waiter { fault, gpa, touch });
    }

    /// An uncorrected error in guest memory as it is now.
    pub(crate) fn strike(&mut self, gpa: Gpa) {
        let place = self.guest.cell(gpa).place;
        let under = self.covers.get(&place.object);
        let place = under.map_or(place, |under| under[place.frame as usize]);
        self.physical.strike(place);
    }

    /// A device is given a frame, unless it has to wait.
    pub(crate) fn lease(&mut self, gpa: Gpa, stubborn: bool) {
        let claimed = self.watch.claimed.iter().any(|page| page.contains(gpa));
        if !claimed && !self.watch.resetting && self.guest.load(&self.physical, gpa).is_some() {
            let place = self.guest.cell(gpa).place;
            self.others.leases.push(Lease {
                gpa,
                place,
                stubborn,
            });
        }
    }

    /// The device writes.
    pub(crate) fn write_leased(&mut self, lease: &Lease) {
        self.guest
            .store_at(&mut self.physical, lease.gpa, lease.place);
    }

    /// Every device finishes its I/O in the page, if it ever does.
    pub(super) fn end_leases(&mut self, page: GpaRange) -> Result<(), ModelError> {
        let all = std::mem::take(&mut self.others.leases);
        let (inside, outside): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|lease| page.contains(lease.gpa));
        self.others.leases = outside;
        let (stubborn, ending): (Vec<_>, Vec<_>) =
            inside.into_iter().partition(|lease| lease.stubborn);
        for lease in &ending {
            self.write_leased(lease);
        }
        let held = !stubborn.is_empty();
        self.others.leases.extend(stubborn);
        if held {
            Err(ModelError::LeaseHeld)
        } else {
            Ok(())
        }
    }

    /// What was to happen before this call happens.
    pub(super) fn follow_script(&mut self, call: u64) {
        let script = std::mem::take(&mut self.others.script);
        let (due, later) = script.into_iter().partition(|(when, _)| *when == call);
        self.others.script = later;
        let due: Vec<(u64, Happening)> = due;
        for (_, happening) in due {
            match happening {
                Happening::Error(gpa) => self.strike(gpa),
                Happening::StageError(frame) => self.strike_stage(frame),
                Happening::Touch(gpa, touch) => {
                    self.touch(gpa, touch);
                }
            }
        }
    }

    fn strike_stage(&mut self, frame: u32) {
        if let Some(stage) = self.watch.staged.first() {
            let object = stage.object;
            self.physical.strike(Place { object, frame });
        }
    }

    /// Up to three things happen.
    pub(crate) fn let_others_run(&mut self) {
        let Some(mut random) = self.others.random.take() else {
            return;
        };
        for _ in 0..random.rand_range(0..4) {
            self.happen(&mut random);
        }
        self.others.random = Some(random);
    }

    fn happen(&mut self, random: &mut Rand32) {
        let gpa = self.somewhere(random);
        match random.rand_range(0..100) {
            0..40 if self.others.budget.touches > 0 && !self.paused => {
                self.others.budget.touches -= 1;
                let touch = if chance(random, 50) {
                    Touch::Load
                } else {
                    Touch::Store
                };
                self.touch(gpa, touch);
            }
            40..60 if self.others.budget.errors > 0 => {
                self.others.budget.errors -= 1;
                // Of what nobody has mapped the kernel tells nobody.
                let mapped = self.guest.load(&self.physical, gpa).is_some();
                self.strike(gpa);
                if mapped && chance(random, 50) {
                    self.report(gpa, Cause::ActionOptional, None);
                }
                self.shuffle_queue(random);
            }
            60..65 if self.others.budget.errors > 0 => {
                if let Some(stage) = self.watch.staged.first() {
                    self.others.budget.errors -= 1;
                    let frames = self.physical.frames(stage.object);
                    self.strike_stage(random.rand_range(0..frames));
                }
            }
            70..80 if self.others.leases.len() < 6 => self.lease(gpa, chance(random, 2)),
            80..90 if !self.others.leases.is_empty() => {
                let leases = u32::try_from(self.others.leases.len()).expect("few");
                let lease = random.rand_range(0..leases) as usize;
                let lease = self.others.leases.swap_remove(lease);
                self.write_leased(&lease);
                if lease.stubborn || chance(random, 50) {
                    self.others.leases.push(lease);
                }
            }
            _ => {}
        }
    }

    /// A frame, more often than not of the page that is being worked on.
    fn somewhere(&self, random: &mut Rand32) -> Gpa {
        let below = |random: &mut Rand32, end: u64| {
            u64::from(random.rand_range(0..u32::try_from(end).expect("few frames")))
        };
        let streaming = self.watch.streaming().filter(|_| chance(random, 50));
        match streaming.or(self.watch.page()) {
            Some(page) if chance(random, 60) => {
                let frames = page.len() / pagemend_core::address::FRAME_SIZE;
                let offset = below(random, frames) * pagemend_core::address::FRAME_SIZE;
                page.at(offset).expect("it lies in the page")
            }
            _ => self.guest.nth(below(random, self.guest.frames())),
        }
    }

    /// Reports do not arrive in the order of what they report.
    fn shuffle_queue(&mut self, random: &mut Rand32) {
        let waiting = u32::try_from(self.others.queue.len()).expect("few");
        if waiting > 1 {
            let place = random.rand_range(0..waiting) as usize;
            self.others.queue.swap(0, place);
        }
    }
}
