//! Swapping: a page's bytes into new memory, and that into the page's place.

use super::stream::STRETCH;
use super::{Job, Mender, failed};
use crate::address::{FRAME_SIZE, GpaRange};
use crate::event::Step;
use crate::host::{Host, Salvaged, Swapped};
use crate::plan::{Action, Reason};
use crate::policy::Filling;

/// What was read of a page, and what could not be.
pub(super) struct Salvage {
    pub(super) recovered_bytes: u64,
    pub(super) lost: Vec<GpaRange>,
}

impl<H: Host> Mender<H> {
    /// Puts new memory in the page's place, between a claim and its release.
    pub(super) fn replace(&mut self, job: &mut Job, action: Action) -> Result<(), Reason> {
        let page = job.page();
        // It may be in a page that is being mended on demand, and is claimed with that.
        let claimed_already = self.is_streaming(page);
        if !claimed_already {
            let claimed = self.host.claim(page);
            self.passed(&mut job.trail, claimed, "claim", |()| Step::Claim)?;
        }
        let replaced = match action {
            Action::Mend if job.filling == Filling::OnDemand && page.len() > STRETCH.bytes() => {
                match self.start_stream(job) {
                    // It is released when it is complete.
                    Ok(()) => return Ok(()),
                    Err(reason) => {
                        job.reasons.push(reason);
                        self.mend(job)
                    }
                }
            }
            Action::Mend => self.mend(job),
            _ => self.discard(job),
        };
        if !claimed_already {
            self.host.release(page);
        }
        replaced
    }

    fn mend(&mut self, job: &mut Job) -> Result<(), Reason> {
        // Who could still write to the page would write to what has been read of it.
        self.isolate(job)?;
        // A page of the old size cannot have a lost frame in it; one that lost nothing is rare
        // enough to live with smaller pages too.
        job.target.largest = job.target.largest.next_smaller();
        let staged = self.host.stage(&job.target);
        let mut stage = self.passed(&mut job.trail, staged, "stage", |_| Step::Stage)?;

        let Salvage {
            recovered_bytes,
            lost,
        } = self.salvage(&mut stage, job.page())?;
        let salvaged = Step::Salvage {
            recovered_bytes,
            lost: lost.clone(),
        };
        self.publish(&mut job.trail, salvaged);
        if recovered_bytes == 0 {
            return Err(Reason::NothingSalvaged);
        }
        let poisoned = self.host.poison(&mut stage, &lost);
        let marked_bytes = lost.iter().map(GpaRange::len).sum();
        self.passed(&mut job.trail, poisoned, "poison", |()| Step::Poison {
            marked_bytes,
        })?;

        self.swap(job, stage)?;
        self.record_met(job, &lost);
        self.totals.mended += 1;
        self.totals.recovered_bytes += recovered_bytes;
        Ok(())
    }

    /// Everybody hears that all of it is lost before anybody can read a zero.
    fn discard(&mut self, job: &mut Job) -> Result<(), Reason> {
        let staged = self.host.stage(&job.target);
        let stage = self.passed(&mut job.trail, staged, "stage", |_| Step::Stage)?;
        let page = job.page();
        self.record_met(job, &[page]);
        self.swap(job, stage)?;
        self.totals.discarded += 1;
        Ok(())
    }

    /// Reads all of `page` that can be read, in as few reads as the errors allow: on a poisoned page
    /// each read costs a scan of all the rest of it, however little is asked for
    /// (`hugetlbfs_read_iter`).
    pub(super) fn salvage(
        &mut self,
        stage: &mut H::Stage,
        page: GpaRange,
    ) -> Result<Salvage, Reason> {
        let mut lost = self.read(stage, page, page)?;
        // What has been told lost stays lost, even where it could be read.
        lost.extend(self.ledger.runs_in(&page));
        let lost = joined(lost);
        let lost_bytes: u64 = lost.iter().map(GpaRange::len).sum();
        Ok(Salvage {
            recovered_bytes: page.len() - lost_bytes,
            lost,
        })
    }

    /// Reads `run` of `page` into the stage, and gives the frames that cannot be read.
    pub(super) fn read(
        &mut self,
        stage: &mut H::Stage,
        page: GpaRange,
        run: GpaRange,
    ) -> Result<Vec<GpaRange>, Reason> {
        let mut offset = run.start().get() - page.start().get();
        let end = offset + run.len();
        let mut unreadable = vec![];
        while offset < end {
            match self.host.salvage(stage, offset, end - offset) {
                Ok(Salvaged::Bytes(bytes)) => offset += bytes,
                Ok(Salvaged::Unreadable) => {
                    let frame = offset - offset % FRAME_SIZE;
                    unreadable.extend(page.slice(frame, FRAME_SIZE));
                    offset = frame + FRAME_SIZE;
                }
                Err(error) => return Err(failed("salvage", &error)),
            }
        }
        Ok(unreadable)
    }

    fn swap(&mut self, job: &mut Job, stage: H::Stage) -> Result<(), Reason> {
        let Swapped { segments, reasons } = self.put_in_place(job.page(), stage)?;
        self.publish(&mut job.trail, Step::Swap { segments, reasons });
        Ok(())
    }

    /// Makes the stage the guest's memory.
    pub(super) fn put_in_place(
        &mut self,
        page: GpaRange,
        stage: H::Stage,
    ) -> Result<Swapped, Reason> {
        let swapped = self.host.swap(stage);
        let swapped = swapped.map_err(|error| failed("swap", &error))?;
        self.map
            .replace(page, &swapped.segments)
            .expect("a host's swap covers exactly the page");
        Ok(swapped)
    }
}

/// The same bytes as maximal ranges, ordered and apart.
pub(super) fn joined(mut ranges: Vec<GpaRange>) -> Vec<GpaRange> {
    ranges.sort_unstable_by_key(GpaRange::start);
    let mut joined: Vec<GpaRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.start() <= last.end() => {
                let end = last.end().max(range.end());
                *last = GpaRange::new(last.start(), end.get() - last.start().get())
                    .expect("it ends where one of the two does");
            }
            _ => joined.push(range),
        }
    }
    joined
}
