//! Mending on demand: a page comes back in stretches of 2 MiB, those that are touched first.
//!
//! Nobody waits for a gibibyte to be copied. The page is covered, which changes nothing for whoever
//! touches it; then each stretch is salvaged, marked and swapped in as a page of its own would be, so
//! at every instant a stretch is either as it was or finished. A touched stretch is filled at once, by
//! itself. The rest is filled in the background, one run of stretches at a time, between the faults; so a
//! fault waits for one such run at most. The turn is the page's that has had least time.
//!
//! A run that fails is tried again stretch by stretch; a stretch that fails is told lost, and its
//! page goes on.

use std::collections::BTreeSet;

use super::replace::Salvage;
use super::{Job, Mender, Trail, failed};
use crate::address::{Gpa, GpaRange, Hva, PageSize};
use crate::event::{FillTimes, Step};
use crate::host::{Host, Target};
use crate::ledger::Cause;
use crate::plan::Reason;
use crate::time::Timestamp;

/// In what pieces a page comes back: the largest page that new memory has.
pub(super) const STRETCH: PageSize = PageSize::SIZE_2M;

/// In a run there are no two stretches on both sides of a multiple of so many: a host has new memory
/// for half a GiB in one piece, for a mapping that covers an aligned GiB may share its page tables.
const SIDE_BY_SIDE: u64 = (512 << 20) / STRETCH.bytes();

/// A page that is coming back.
#[derive(Debug)]
pub(super) struct Stream {
    trail: Trail,
    hva: Hva,
    /// The stretches that are still missing, by number.
    missing: BTreeSet<u64>,
    recovered_bytes: u64,
    arrived: Timestamp,
    pace: Pace,
    /// Time that has gone into it in the background, in nanoseconds. A page that comes later begins
    /// with what the others have had at least, so that it does not keep them waiting.
    spent_ns: u64,
}

/// How far a page that is mended on demand has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The page.
    pub page: GpaRange,
    /// Bytes of it that are still to come.
    pub left_bytes: u64,
}

impl Stream {
    fn page(&self) -> GpaRange {
        self.trail.page
    }

    fn left_bytes(&self) -> u64 {
        self.missing.len() as u64 * STRETCH.bytes()
    }

    /// The stretch of `gpa`, if that is missing.
    fn missing_stretch(&self, gpa: Gpa) -> Option<u64> {
        let number = self.page().offset_of(gpa)? / STRETCH.bytes();
        self.missing.contains(&number).then_some(number)
    }

    /// So many stretches from `first` on.
    fn run(&self, first: u64, stretches: u64) -> GpaRange {
        self.page()
            .slice(first * STRETCH.bytes(), stretches * STRETCH.bytes())
            .expect("stretches lie in the page")
    }

    /// What is filled next in the background.
    fn next_run(&self) -> GpaRange {
        let first = self.missing.first().copied();
        let first = first.expect("a complete page is no stream any more");
        let stretches = (first..)
            .zip(self.missing.range(first..))
            .take(self.pace.stretches.min(SIDE_BY_SIDE - first % SIDE_BY_SIDE) as usize)
            .take_while(|(expected, missing)| expected == *missing)
            .count();
        self.run(first, stretches as u64)
    }
}

/// How many stretches are filled at once in the background, found out as it goes on.
///
/// The more at once, the longer a fault may have to wait. But each read of a poisoned page costs a
/// look at all the rest of it, on kernels that do so, and by how much depends on where the errors are:
/// where reads are dear, few large ones take a fraction of the time.
#[derive(Clone, Copy, Debug)]
struct Pace {
    stretches: u64,
    /// What a stretch cost in runs of half as many, in nanoseconds.
    before: Option<u64>,
    settled: bool,
}

impl Pace {
    /// 32 MiB: what a fault waits for is still less than a hundredth of a second of copying.
    const LARGEST: u64 = 16;

    const START: Self = Self {
        stretches: 1,
        before: None,
        settled: false,
    };

    /// What is left to do where a run has failed.
    const ONE_BY_ONE: Self = Self {
        settled: true,
        ..Self::START
    };

    /// So many stretches took so long: twice as many next time, unless twice as many were hardly
    /// better than half of them.
    fn took(&mut self, stretches: u64, nanos: u64) {
        if self.settled || stretches < self.stretches {
            return;
        }
        let each = nanos / stretches;
        if self.before.is_some_and(|before| each > before / 4 * 3) {
            self.stretches = (stretches / 2).max(1);
            self.settled = true;
        } else {
            self.before = Some(each);
            self.stretches = (stretches * 2).min(Self::LARGEST);
            self.settled = stretches == Self::LARGEST;
        }
    }
}

impl<H: Host> Mender<H> {
    /// Fills a run of what is missing of a page that is mended on demand, if there is one. To be
    /// called between faults until it says that nothing is left.
    pub fn step(&mut self) -> bool {
        let streams = self.streams.iter().enumerate();
        let next = streams.min_by_key(|(_, stream)| stream.spent_ns);
        let next = next.map(|(place, _)| place);
        let Some((place, mut stream)) = next.and_then(|at| Some((at, self.streams.remove(at)?)))
        else {
            return false;
        };
        let run = stream.next_run();
        let started = self.host.now();
        let filled = self.fill(&mut stream, run, None);
        let nanos = self.host.now().since(started);
        stream.spent_ns += nanos;
        if filled {
            stream.pace.took(run.len() / STRETCH.bytes(), nanos);
        }
        self.go_on(stream, place);
        !self.streams.is_empty()
    }

    /// The pages that are being mended on demand.
    pub fn progress(&self) -> impl Iterator<Item = Progress> {
        self.streams.iter().map(|stream| Progress {
            page: stream.page(),
            left_bytes: stream.left_bytes(),
        })
    }

    /// Gives up what is still to come: it goes on faulting, and nobody will answer.
    pub fn cancel(&mut self) {
        while let Some(mut stream) = self.streams.pop_front() {
            let left_bytes = stream.left_bytes();
            self.host.release(stream.page());
            self.publish(&mut stream.trail, Step::Cancel { left_bytes });
        }
    }

    /// Whether `page` lies in one that is being mended on demand.
    pub(super) fn is_streaming(&self, page: GpaRange) -> bool {
        self.streams
            .iter()
            .any(|stream| stream.page().covers(&page))
    }

    /// Covers the page, and fills what was met of it. On failure the page is as it was.
    pub(super) fn start_stream(&mut self, job: &mut Job) -> Result<(), Reason> {
        let covered = self.host.cover(&job.target);
        self.passed(&mut job.trail, covered, "cover", |()| Step::Cover)?;
        let page = job.page();
        let least = self.streams.iter().map(|stream| stream.spent_ns).min();
        let stream = Stream {
            trail: Trail { ..job.trail },
            hva: job.target.hva,
            missing: (0..page.len() / STRETCH.bytes()).collect(),
            recovered_bytes: 0,
            arrived: job.arrived,
            pace: Pace::START,
            spent_ns: least.unwrap_or(0),
        };
        self.streams.push_back(stream);
        self.fill_touched(job);
        job.trail.mark = self.host.now();
        Ok(())
    }

    /// Fills what was met, if it is a missing part of a page that is mended on demand.
    pub(super) fn fill_touched(&mut self, job: &Job) -> bool {
        let missing = |(place, stream): (usize, &Stream)| {
            let number = stream.missing_stretch(job.gpa)?;
            Some((place, number))
        };
        let Some((place, number)) = self.streams.iter().enumerate().find_map(missing) else {
            return false;
        };
        if let Some(mut stream) = self.streams.remove(place) {
            stream.trail.mark = self.host.now();
            let stretch = stream.run(number, 1);
            self.fill(&mut stream, stretch, job.met());
            self.go_on(stream, place);
        }
        true
    }

    /// Puts the page back into its place in the order of turns, unless it is complete.
    fn go_on(&mut self, mut stream: Stream, place: usize) {
        if !stream.missing.is_empty() {
            self.streams.insert(place, stream);
            return;
        }
        let page = stream.page();
        self.host.release(page);
        let recovered_bytes = stream.recovered_bytes;
        match recovered_bytes {
            0 => self.totals.abandoned += 1,
            _ => self.totals.mended += 1,
        }
        let total_ns = self.host.now().since(stream.arrived);
        let complete = Step::Complete {
            recovered_bytes,
            total_ns,
        };
        self.publish(&mut stream.trail, complete);
    }

    /// Makes a run of stretches the guest's memory again. Where that fails, more than one stretch are
    /// still missing as before, and one is told lost. Says whether it succeeded.
    fn fill(&mut self, stream: &mut Stream, run: GpaRange, met: Option<(Gpa, Cause)>) -> bool {
        stream.trail.mark = self.host.now();
        let first = run.start().get() - stream.page().start().get();
        let numbers = first / STRETCH.bytes()..(first + run.len()) / STRETCH.bytes();
        let hva = stream.hva.checked_add(first);
        let target = Target {
            page: run,
            hva: hva.expect("the run lies in its page"),
            segments: self.map.segments_in(&run),
            marked: vec![],
            largest: STRETCH,
        };
        let filled = self.fill_with(&target, met.is_some());
        if filled.is_err() && run.len() > STRETCH.bytes() {
            stream.pace = Pace::ONE_BY_ONE;
            return false;
        }
        stream.missing.retain(|number| !numbers.contains(number));
        match filled {
            Ok((mut step, lost)) => {
                if let Step::Fill {
                    left_bytes,
                    recovered_bytes,
                    ..
                } = &mut step
                {
                    *left_bytes = stream.left_bytes();
                    stream.recovered_bytes += *recovered_bytes;
                    self.totals.recovered_bytes += *recovered_bytes;
                }
                self.publish(&mut stream.trail, step);
                self.record(&mut stream.trail, &lost, met);
                true
            }
            Err(reason) => {
                self.fail(&mut stream.trail, reason);
                self.record(&mut stream.trail, &[run], met);
                false
            }
        }
    }

    /// Gives the event of it, in which what is left is not known yet, and what was lost.
    fn fill_with(
        &mut self,
        target: &Target,
        touched: bool,
    ) -> Result<(Step, Vec<GpaRange>), Reason> {
        let mut mark = self.host.now();
        let staged = self.host.stage(target);
        let mut stage = staged.map_err(|error| failed("stage", &error))?;
        let stage_ns = self.since(&mut mark);
        let Salvage {
            recovered_bytes,
            lost,
        } = self.salvage(&mut stage, target.page)?;
        if recovered_bytes == 0 {
            return Err(Reason::NothingSalvaged);
        }
        let salvage_ns = self.since(&mut mark);
        let poisoned = self.host.poison(&mut stage, &lost);
        poisoned.map_err(|error| failed("poison", &error))?;
        let poison_ns = self.since(&mut mark);
        let swapped = self.put_in_place(target.page, stage)?;
        let step = Step::Fill {
            part: target.page,
            touched,
            recovered_bytes,
            lost: lost.clone(),
            segments: swapped.segments,
            reasons: swapped.reasons,
            left_bytes: 0,
            took: FillTimes {
                stage_ns,
                salvage_ns,
                poison_ns,
                swap_ns: self.since(&mut mark),
            },
        };
        Ok((step, lost))
    }

    /// Nanoseconds since `mark`, which becomes now.
    fn since(&self, mark: &mut Timestamp) -> u64 {
        let now = self.host.now();
        now.since(std::mem::replace(mark, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of runs where reading so many stretches takes `nanos`.
    fn settles_at(nanos: impl Fn(u64) -> u64) -> u64 {
        let mut pace = Pace::START;
        for _ in 0..10 {
            pace.took(pace.stretches, nanos(pace.stretches));
        }
        pace.stretches
    }

    #[test]
    fn where_each_stretch_costs_the_same_they_are_filled_one_by_one() {
        assert_eq!(settles_at(|stretches| stretches * 300_000), 1);
    }

    #[test]
    fn where_each_read_is_dear_there_are_few_and_large_ones() {
        assert_eq!(
            settles_at(|stretches| stretches * 300_000 + 6_000_000),
            Pace::LARGEST
        );
    }

    #[test]
    fn runs_grow_as_long_as_that_pays() {
        let between = settles_at(|stretches| stretches * 300_000 + 600_000);
        assert!((2..Pace::LARGEST).contains(&between), "{between}");
    }
}
