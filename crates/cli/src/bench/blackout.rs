//! How long a vCPU waits that touches healthy memory in a page that has failed, and what gaps the
//! others see: the first question that a cloud has to a recovery.

mod at_once;
mod cases;
mod copies;
mod parts;
mod report;
mod sample;

use std::sync::atomic::Ordering;

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::at_once::AtOnce;
use self::cases::{Lot, Samples};
use self::copies::Copies;
pub(super) use self::report::BlackoutReport;
use self::report::{Measured, Skipped};
use self::sample::Shape;
use super::error::BenchError;
use super::huge::HugePages;
use super::output::Output;
use super::room::Room;
use crate::chain;
use crate::interrupt;
use crate::pool::GrownPool;
use crate::progress::Progress;

/// Measures how long a vCPU waits for failed memory, and what the others notice.
///
/// A guest of two vCPUs is run on this machine's KVM: one touches healthy words of huge pages in
/// which a frame has failed, the other reads the clock without a pause. Fresh guests for each way
/// to deal with it, in turn, and as many without an error: what they see is what the machine does
/// anyway. Errors are emulated.
#[derive(Debug, Args)]
pub(super) struct Blackout {
    /// Ways to deal with it, all unless said: on-demand, a mend for which the touch waits until the
    /// 2 MiB around it are back; eager, a mend for which the touch waits until the
    /// page is complete; rfc, as has been proposed for QEMU, with the machine paused while all of
    /// the page is copied to pages of 4 KiB, 4 KiB at a time.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Method::ALL)]
    method: Vec<Method>,
    /// Guest memory's pages: both that the machine has room for unless said.
    #[arg(long, value_enum, value_delimiter = ',')]
    page_size: Vec<HugePages>,
    /// Touches of each case. 64 unless said, 8 of pages of 1 GiB.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    samples: Option<u64>,
    /// Errors at the same time, over 4 GiB of guest memory or as much of it as can be had, in a guest
    /// that is measured on demand after the others; 0 leaves it out.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    at_once: u64,
    /// Decides which frames fail and which words are touched.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    pub(super) output: Output,
}

/// A way to deal with a failed page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Method {
    OnDemand,
    Eager,
    Rfc,
}

impl Method {
    const ALL: [Self; 3] = [Self::OnDemand, Self::Eager, Self::Rfc];

    fn name(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Eager => "eager",
            Self::Rfc => "rfc",
        }
    }

    /// Whether pagemend does it.
    fn mends(self) -> bool {
        self != Self::Rfc
    }
}

impl Blackout {
    pub(super) fn measure(&self) -> Result<BlackoutReport, BenchError> {
        let interrupted = interrupt::noted().map_err(BenchError::system("Ctrl-C"))?;
        let buffers = Room {
            guest: None,
            other: copies::BYTES,
        };
        buffers.get()?;
        let mut copies = Copies::new()?;
        let mut methods = self.method.clone();
        methods.dedup();
        let mut report = BlackoutReport::default();
        for (pages, pool) in self.sizes(&mut report.skipped)? {
            let shape = self.shape(pages);
            let stock = shape.stock();
            let rounds = self.samples(pages).div_ceil(shape.pages);
            let progress = Progress::new(shape.what(), rounds * (methods.len() as u64 + 2));
            // Those without an error are cases like the others, and the first.
            let mut cases: Vec<(Lot, Samples)> = [Lot::Quiet, Lot::Copying]
                .into_iter()
                .chain(methods.iter().copied().map(Lot::Failure))
                .map(|lot| (lot, Samples::default()))
                .collect();
            let mut random = oorandom::Rand64::new(self.seed.into());
            for round in 0..rounds {
                let count = cases.len();
                for turn in 0..count {
                    if interrupted.load(Ordering::Relaxed) {
                        return Err(BenchError::Interrupted);
                    }
                    let (lot, samples) = &mut cases[(turn + round as usize) % count];
                    stock.warm()?;
                    samples.add(sample::take(*lot, &shape, &mut copies, &mut random)?);
                    progress.advance();
                }
            }
            report.measured.push(Measured {
                shape,
                cases,
                from_pool: stock.is_pool(),
            });
            drop((stock, pool));
            if self.at_once > 0 && methods.contains(&Method::OnDemand) {
                match self.at_once(pages, &mut random) {
                    Ok(at_once) => report.at_once.push((pages, at_once)),
                    Err(error @ (BenchError::TooLarge { .. } | BenchError::PoolStays(_))) => {
                        report.skipped.push(Skipped {
                            page_size: pages.size(),
                            why: format!("{} errors at once: {}", self.at_once, chain(&error)),
                        });
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        report.conclude(copies.times());
        Ok(report)
    }

    fn at_once(
        &self,
        pages: HugePages,
        random: &mut oorandom::Rand64,
    ) -> Result<AtOnce, BenchError> {
        let (memory, _pool) = at_once::room(pages)?;
        at_once::take(pages, memory, self.at_once, random)
    }

    fn samples(&self, pages: HugePages) -> u64 {
        self.samples.unwrap_or(match pages {
            HugePages::Two => 64,
            HugePages::Gigantic => 8,
        })
    }

    fn shape(&self, pages: HugePages) -> Shape {
        Shape::new(pages, self.samples(pages))
    }

    /// The page sizes that there is room for, with it. One that was named has to be there.
    fn sizes(
        &self,
        skipped: &mut Vec<Skipped>,
    ) -> Result<Vec<(HugePages, Option<GrownPool>)>, BenchError> {
        let named = !self.page_size.is_empty();
        let wanted = match named {
            true => self.page_size.clone(),
            false => HugePages::ALL.to_vec(),
        };
        let mut sizes = vec![];
        for pages in wanted {
            match self.shape(pages).room().get() {
                Ok(pool) => sizes.push((pages, pool)),
                Err(error) if named => return Err(error),
                Err(error) => skipped.push(Skipped {
                    page_size: pages.size(),
                    why: chain(&error),
                }),
            }
        }
        match (sizes.is_empty(), skipped.first()) {
            (true, Some(first)) => Err(BenchError::NoRoom {
                why: first.why.clone(),
            }),
            _ => Ok(sizes),
        }
    }
}
