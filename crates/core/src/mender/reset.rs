//! A guest's reset: what was lost becomes fresh memory, and the ledger is cleared.
//!
//! Healthy bytes stay, as they do over a reset of a machine. A page is renewed whole or not at all:
//! one that cannot be stays as it is, and what was lost of it is lost still, as new losses in the
//! cleared ledger.

use std::collections::BTreeSet;

use super::replace::joined;
use super::{Mender, Trail, failed};
use crate::address::{Gpa, GpaRange};
use crate::event::Step;
use crate::host::{Host, Target};
use crate::ledger::Loss;
use crate::map::Region;
use crate::plan::{Reason, cannot_follow};

/// What came of a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Pages that got fresh memory.
    pub renewed_pages: u64,
    /// Frames that the ledger forgot.
    pub cleared_frames: u64,
    /// What is lost still, ordered and apart: it has to be told to the guest again.
    pub lost: Vec<GpaRange>,
    /// Pages that stayed as they were, and why.
    pub failed: Vec<(GpaRange, Reason)>,
}

/// A page to renew.
struct Renewal {
    target: Target,
    /// Why it may not be swapped.
    bound: Option<Reason>,
    /// Whether it is a frame of the memory that its region was configured with, which can get fresh
    /// memory where it is.
    in_place: bool,
}

impl<H: Host> Mender<H> {
    /// Resets the guest's memory: lost frames become fresh zeroed memory, pages get the size that
    /// their region was configured with where the host has such, the ledger is cleared.
    ///
    /// Nobody may use the guest's memory meanwhile: vCPUs are stopped, devices have finished. Memory
    /// keeps its addresses. Pages that are being mended on demand are completed first.
    pub fn reset(&mut self) -> Reset {
        while self.step() {}
        let mut all = Trail {
            fault: 0,
            page: self.span(),
            mark: self.host.now(),
        };
        let mut renewed_pages = 0;
        let mut kept = vec![];
        for renewal in self.renewals() {
            let mut trail = Trail {
                fault: 0,
                page: renewal.target.page,
                mark: self.host.now(),
            };
            match self.renew(&mut trail, renewal) {
                Ok(()) => renewed_pages += 1,
                Err(reason) => {
                    let reason = self.fail(&mut trail, reason);
                    kept.push((trail.page, reason));
                }
            }
        }
        let (cleared_frames, lost) = self.forget_all_but(&kept);
        let step = Step::Reset {
            renewed_pages,
            cleared_frames,
            lost: lost.clone(),
        };
        self.publish(&mut all, step);
        self.told();
        Reset {
            renewed_pages,
            cleared_frames,
            lost,
            failed: kept,
        }
    }

    /// All of guest memory, from its first byte to its last.
    fn span(&self) -> GpaRange {
        let mut regions = self.map.regions().map(|region| region.gpa);
        let first = regions.next();
        let (start, end) = match (first, regions.last().or(first)) {
            (Some(first), Some(last)) => (first.start(), last.end()),
            _ => (Gpa::new(0), Gpa::new(0)),
        };
        GpaRange::new(start, end.get() - start.get()).expect("regions are ordered")
    }

    /// Pages with lost frames, and those whose pages are smaller than configured.
    fn renewals(&self) -> Vec<Renewal> {
        let mut renewals = vec![];
        for region in self.map.regions() {
            let segments = self.map.segments_in(&region.gpa).into_iter();
            let smaller = segments
                .filter(|segment| segment.page_size < region.page_size)
                .map(|segment| segment.gpa);
            let pages: BTreeSet<GpaRange> = self
                .ledger
                .runs_in(&region.gpa)
                .chain(smaller)
                .flat_map(|range| range.pages(region.page_size))
                .collect();
            renewals.extend(pages.into_iter().map(|page| self.renewal(region, page)));
        }
        renewals
    }

    fn renewal(&self, region: &Region, page: GpaRange) -> Renewal {
        let segments = self.map.segments_in(&page);
        let configured = |segment| region.was_configured_with(segment);
        let in_place = !region.page_size.is_huge() && segments.iter().all(configured);
        let offset = page.start().get() - region.gpa.start().get();
        Renewal {
            target: Target {
                page,
                hva: region
                    .hva_range()
                    .at(offset)
                    .expect("the page lies in its region"),
                segments,
                marked: self.ledger.enforced_in(&page).collect(),
                largest: region.page_size,
            },
            bound: cannot_follow(&region.consumers).next(),
            in_place,
        }
    }

    fn renew(&mut self, trail: &mut Trail, renewal: Renewal) -> Result<(), Reason> {
        let Renewal {
            target,
            bound,
            in_place,
        } = renewal;
        let page = target.page;
        let claimed = self.host.claim(page);
        claimed.map_err(|error| failed("claim", &error))?;
        let renewed = match in_place {
            true => self.renew_in_place(&target),
            false => Err(None),
        };
        let renewed = renewed.or_else(|reason| match (bound, reason) {
            // Both are why: the swap would have helped.
            (Some(bound), _) => Err(bound),
            (None, reason) => self.renew_by_swap(target, reason),
        });
        self.host.release(page);
        self.publish(trail, renewed?);
        Ok(())
    }

    fn renew_in_place(&mut self, target: &Target) -> Result<Step, Option<Reason>> {
        let renewed = self.host.renew(target);
        renewed.map_err(|error| Some(failed("renew", &error)))?;
        Ok(Step::Renew {
            zeroed: vec![target.page],
            segments: target.segments.clone(),
            reasons: vec![],
        })
    }

    /// `why_not` is why it was not renewed in place, where that was tried.
    fn renew_by_swap(&mut self, target: Target, why_not: Option<Reason>) -> Result<Step, Reason> {
        let staged = self.host.stage(&target);
        let mut stage = staged.map_err(|error| failed("stage", &error))?;
        let Target {
            page,
            segments: before,
            ..
        } = target;
        let mut zeroed: Vec<GpaRange> = self.ledger.runs_in(&page).collect();
        let healthy: Vec<GpaRange> = self.ledger.gaps_in(&page).collect();
        for run in healthy {
            zeroed.extend(self.read(&mut stage, page, run)?);
        }
        let swapped = self.put_in_place(page, stage)?;
        self.host.retire(&before);
        Ok(Step::Renew {
            zeroed: joined(zeroed),
            segments: swapped.segments,
            reasons: why_not.into_iter().chain(swapped.reasons).collect(),
        })
    }

    /// Clears the ledger, but for what is lost in the pages that were `kept`, which come in order.
    /// Gives how many frames were forgotten, and the others.
    fn forget_all_but(&mut self, kept: &[(GpaRange, Reason)]) -> (u64, Vec<GpaRange>) {
        let is_kept = |gpa: Gpa| {
            let next = kept.partition_point(|(page, _)| page.start() <= gpa);
            next > 0 && kept[next - 1].0.contains(gpa)
        };
        let entrusted: Vec<GpaRange> = kept
            .iter()
            .flat_map(|(page, _)| self.ledger.entrusted_in(page))
            .collect();
        self.healing.clear();
        let before = self.ledger.len();
        let all = self.ledger.since(self.ledger.first_generation());
        let losses: Vec<Loss> = all
            .into_iter()
            .flatten()
            .filter(|loss| is_kept(loss.gpa))
            .collect();
        if before > 0 {
            self.ledger.clear();
        }
        for loss in &losses {
            self.ledger.insert(loss.gpa, loss.cause, loss.time);
        }
        // What can be touched of them can be touched still.
        for range in entrusted {
            self.ledger.entrust(range);
        }
        (before - self.ledger.len(), self.ledger.runs().collect())
    }
}
