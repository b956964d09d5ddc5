//! What came of it, next to what has been published. docs/bench.md describes the JSON form.

use std::io::{self, Write};

use pagemend::PageSize;
use serde::Serialize;

use super::cases::{Policy, Samples, Setup};
use super::{Access, Pattern};
use crate::bench::output::Report;
use crate::bench::pieces::{Piece, listed};
use crate::bench::plot::{Plot, Row};
use crate::bench::spread::Quartiles;
use crate::bench::table::Table;
use crate::size::Size;

/// The figures of the proposal "Userspace MFR Policy via memfd" (linux-mm, January 2025): a guest
/// of 80 vCPUs and 640 GiB with huge pages of 2 MiB inside and out, of which a part was split.
const PUBLISHED: [(f64, f64); 3] = [(0.0, 17_204.69), (0.05, 16_999.14), (0.25, 16_355.11)];

/// A page size that was not measured.
#[derive(Debug, Serialize)]
pub(super) struct Skipped {
    pub(super) page_size: PageSize,
    pub(super) why: String,
}

#[derive(Serialize)]
pub(in crate::bench) struct MemcyclerReport {
    /// In this process, or in a guest.
    place: &'static str,
    pattern: &'static str,
    stride_bytes: Option<u64>,
    threads: u8,
    rounds: u32,
    turn_ms: u64,
    cases: Vec<Entry>,
    published: Vec<Published>,
    skipped: Vec<Skipped>,
}

#[derive(Serialize)]
struct Entry {
    policy: Policy,
    page_size: PageSize,
    memory_bytes: u64,
    hit_pages: u64,
    hit_fraction: f64,
    words_per_us: f64,
    reads_per_us: f64,
    writes_per_us: f64,
    ratio_to_healthy: f64,
    ratio: Quartiles,
    reads_ratio: Quartiles,
    writes_ratio: Quartiles,
    pages: Vec<Piece>,
    words_per_us_by_round: Vec<f64>,
}

#[derive(Serialize)]
struct Published {
    policy: Policy,
    hit_fraction: f64,
    words_per_us: f64,
    ratio_to_healthy: f64,
}

impl MemcyclerReport {
    /// An empty report on how it is measured.
    pub(super) fn new(place: &'static str, pattern: Pattern, setup: (u8, u32, u64)) -> Self {
        let (threads, rounds, turn_ms) = setup;
        let (name, stride_bytes) = match pattern {
            Pattern::Stride(8) => ("sequential", None),
            Pattern::Stride(bytes) => ("stride", Some(bytes)),
            Pattern::Random => ("random", None),
        };
        let healthy = PUBLISHED[0].1;
        let published = PUBLISHED.into_iter().map(|(hit_fraction, rate)| Published {
            policy: match hit_fraction {
                0.0 => Policy::Healthy,
                _ => Policy::Split,
            },
            hit_fraction,
            words_per_us: rate,
            ratio_to_healthy: rate / healthy,
        });
        Self {
            place,
            pattern: name,
            stride_bytes,
            threads,
            rounds,
            turn_ms,
            cases: vec![],
            published: published.collect(),
            skipped: vec![],
        }
    }

    pub(super) fn skip(&mut self, page_size: PageSize, why: String) {
        self.skipped.push(Skipped { page_size, why });
    }

    /// Why nothing could be measured, where that is so.
    pub(super) fn is_empty(&self) -> Option<String> {
        let first = self.skipped.first().map(|skipped| skipped.why.clone());
        first.filter(|_| self.cases.is_empty())
    }

    /// Adds the cases of a page size, of which the first is healthy memory.
    pub(super) fn add(&mut self, setup: &Setup, samples: Vec<Samples>) {
        let Some(healthy) = samples.first().map(|samples| samples.rates.clone()) else {
            return;
        };
        let place = |access| Access::ALL.iter().position(|other| *other == access);
        let cases = setup.cases.iter().zip(samples);
        self.cases.extend(cases.filter_map(|(case, samples)| {
            let rate = |access| {
                let rates = samples.rates[place(access)?].iter().copied();
                Some(Quartiles::of(rates)?.median)
            };
            let ratio = |access| {
                let access = place(access)?;
                Quartiles::of_ratios(&samples.rates[access], &healthy[access])
            };
            let hit_pages = case.lost.len() as u64;
            Some(Entry {
                policy: case.policy,
                page_size: setup.huge.size(),
                memory_bytes: setup.bytes,
                hit_pages,
                hit_fraction: (hit_pages * setup.huge.bytes()) as f64 / setup.bytes as f64,
                words_per_us: rate(Access::Both)?,
                reads_per_us: rate(Access::Reads)?,
                writes_per_us: rate(Access::Writes)?,
                ratio_to_healthy: ratio(Access::Both)?.median,
                ratio: ratio(Access::Both)?,
                reads_ratio: ratio(Access::Reads)?,
                writes_ratio: ratio(Access::Writes)?,
                words_per_us_by_round: samples.rates[place(Access::Both)?].clone(),
                pages: samples.pieces,
            })
        }));
    }
}

impl Entry {
    fn name(&self) -> String {
        match self.policy {
            policy if policy.spares() => format!("{}, {}", policy.name(), self.page_size),
            policy => format!(
                "{}, {}, {}",
                policy.name(),
                self.page_size,
                percent(self.hit_fraction)
            ),
        }
    }
}

fn percent(fraction: f64) -> String {
    format!("{:.1} % hit", fraction * 100.0)
}

/// Differences of a tenth of a percent matter here.
fn factor(ratio: f64) -> String {
    format!("{ratio:.3}")
}

impl Report for MemcyclerReport {
    const SCHEMA: &'static str = "pagemend.bench.memcycler/1";

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let order = match self.stride_bytes {
            Some(bytes) => format!("one word every {}", Size(bytes)),
            None if self.pattern == "random" => "words in random order".to_owned(),
            None => "every word".to_owned(),
        };
        let (who, memory) = match self.place {
            "guest" => ("vCPUs of a guest", "its"),
            _ => ("threads", "their"),
        };
        writeln!(
            out,
            "{} {who} use {memory} memory: {order}. {} rounds of {} ms each; words per µs.",
            self.threads, self.rounds, self.turn_ms
        )?;
        writeln!(out)?;
        let mut table = Table::new(&[
            "",
            "check and write",
            "x healthy",
            "quartiles",
            "check",
            "x healthy",
            "write",
            "x healthy",
        ]);
        for case in &self.cases {
            table.row([
                case.name(),
                format!("{:.0}", case.words_per_us),
                factor(case.ratio.median),
                format!("{} .. {}", factor(case.ratio.low), factor(case.ratio.high)),
                format!("{:.0}", case.reads_per_us),
                factor(case.reads_ratio.median),
                format!("{:.0}", case.writes_per_us),
                factor(case.writes_ratio.median),
            ]);
        }
        for published in &self.published {
            let name = match published.policy {
                Policy::Healthy => "published: healthy, 2 MiB".to_owned(),
                _ => format!(
                    "published: split, 2 MiB, {}",
                    percent(published.hit_fraction)
                ),
            };
            table.row([
                name,
                format!("{:.0}", published.words_per_us),
                factor(published.ratio_to_healthy),
            ]);
        }
        table.write(out)?;
        writeln!(out)?;
        for case in &self.cases {
            writeln!(out, "{}: {}", case.name(), listed(&case.pages))?;
        }
        writeln!(
            out,
            "Published: a guest of 80 vCPUs and 640 GiB on transparent huge pages (linux-mm, \
             January 2025)."
        )?;
        for Skipped { page_size, why } in &self.skipped {
            writeln!(out, "Not measured: pages of {page_size}: {why}")?;
        }
        Ok(())
    }

    fn plot(&self) -> Plot {
        Plot {
            title: format!("Using memory after errors, {}", self.pattern),
            caption: "Words checked and written, healthy memory being 1: quartiles".to_owned(),
            logarithmic: false,
            unit: factor,
            rows: self
                .cases
                .iter()
                .map(|case| Row {
                    label: case.name(),
                    low: case.ratio.low,
                    mark: case.ratio.median,
                    high: case.ratio.high,
                })
                .collect(),
        }
    }
}
