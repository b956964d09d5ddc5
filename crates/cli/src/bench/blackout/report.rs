//! What came of it, for people and for programs. docs/bench.md describes the JSON form.

use std::io::{self, Write};

use pagemend::PageSize;
use serde::Serialize;

use super::Method;
use super::at_once::AtOnce;
use super::cases::{Lot, Samples};
use super::parts::{Stream, WaitAt};
use super::sample::Shape;
use crate::bench::huge::HugePages;
use crate::bench::output::Report;
use crate::bench::pieces::{Piece, listed};
use crate::bench::plot::{Plot, Row};
use crate::bench::spread::Times;
use crate::bench::table::{Table, time};
use crate::size::Size;

/// A page size that was not measured.
#[derive(Debug, Serialize)]
pub(super) struct Skipped {
    pub(super) page_size: PageSize,
    pub(super) why: String,
}

/// The samples of one page size; those without a method are of guests without an error.
pub(super) struct Measured {
    pub(super) shape: Shape,
    pub(super) cases: Vec<(Lot, Samples)>,
    /// Whether mends take pages of a pool.
    pub(super) from_pool: bool,
}

#[derive(Default, Serialize)]
pub(in crate::bench) struct BlackoutReport {
    memcpy_2m_us: Option<f64>,
    memcpy_2m: Option<Times>,
    cases: Vec<Case>,
    baseline: Vec<Baseline>,
    pub(super) skipped: Vec<Skipped>,
    many: Vec<Many>,
    #[serde(skip)]
    pub(super) measured: Vec<Measured>,
    #[serde(skip)]
    pub(super) at_once: Vec<(HugePages, AtOnce)>,
}

#[derive(Serialize)]
struct Case {
    method: Method,
    page_size: PageSize,
    samples: u64,
    touched: Option<Times>,
    /// Of the 99th percentiles.
    touched_ratio_to_rfc: Option<f64>,
    /// The 99th percentile to the median copy.
    touched_ratio_to_memcpy_2m: Option<f64>,
    bystander: Option<Times>,
    told: Option<Times>,
    split: Option<Times>,
    completed: Option<Times>,
    /// Of the rate at which a page came back, in the median, to the median copy's.
    completed_rate_to_memcpy: Option<f64>,
    waits: Vec<WaitAt>,
    stream: Option<Stream>,
    mended_from_pool: bool,
    pages_after: Vec<Piece>,
}

/// Errors that were there at the same time.
#[derive(Serialize)]
struct Many {
    page_size: PageSize,
    memory_bytes: u64,
    errors: u64,
    /// Huge pages that were hit.
    pages: u64,
    lost_frames: u64,
    touched: Option<Times>,
    device: Option<Times>,
    /// The longest wait of the vCPU to the 99th percentile where one page had failed.
    longest_ratio_to_single_p99: Option<f64>,
}

/// What guests saw that met no error.
#[derive(Serialize)]
struct Baseline {
    /// Whether a thread copied beside them.
    copying: bool,
    page_size: PageSize,
    samples: u64,
    watched_us: f64,
    touched: Option<Times>,
    bystander: Option<Times>,
}

impl BlackoutReport {
    /// Makes the report of what has been measured.
    pub(super) fn conclude(&mut self, memcpy: Option<Times>) {
        self.memcpy_2m = memcpy;
        self.memcpy_2m_us = memcpy.map(|times| times.p50_us);
        for Measured {
            shape,
            cases,
            from_pool,
        } in std::mem::take(&mut self.measured)
        {
            let page_size = shape.huge.size();
            for (lot, samples) in cases {
                let count = samples.touched.len() as u64;
                let touched = Times::of(samples.touched);
                let bystander = Times::of(samples.bystander);
                let Some(method) = lot.method() else {
                    self.baseline.push(Baseline {
                        copying: lot == Lot::Copying,
                        page_size,
                        samples: count,
                        watched_us: shape.watched.as_secs_f64() * 1e6,
                        touched,
                        bystander,
                    });
                    continue;
                };
                let ratio = |times: Times, other: f64| times.p99_us / other;
                let completed = Times::of(samples.completed);
                let copies = page_size.bytes() as f64 / (2 << 20) as f64;
                let rate = |times: Times, copy: f64| copy * copies / times.p50_us;
                self.cases.push(Case {
                    method,
                    page_size,
                    samples: count,
                    touched,
                    touched_ratio_to_rfc: None,
                    touched_ratio_to_memcpy_2m: touched
                        .zip(self.memcpy_2m_us)
                        .map(|(times, copy)| ratio(times, copy)),
                    bystander,
                    told: Times::of(samples.told),
                    split: Times::of(samples.splitting),
                    completed,
                    completed_rate_to_memcpy: completed
                        .zip(self.memcpy_2m_us)
                        .map(|(times, copy)| rate(times, copy)),
                    waits: WaitAt::of(samples.waits),
                    stream: Stream::median(samples.streams),
                    mended_from_pool: from_pool && method.mends(),
                    pages_after: samples.pieces,
                });
            }
        }
        self.compare_with_rfc();
        for (huge, many) in std::mem::take(&mut self.at_once) {
            let page_size = huge.size();
            let (touched, device) = (Times::of(many.vcpu), Times::of(many.device));
            let longest = touched.iter().chain(&device).map(|times| times.max_us);
            let longest = longest.reduce(f64::max);
            let single = self
                .cases
                .iter()
                .find(|case| case.method == Method::OnDemand && case.page_size == page_size)
                .and_then(|case| case.touched);
            self.many.push(Many {
                page_size,
                memory_bytes: many.memory,
                errors: many.errors,
                pages: many.pages,
                lost_frames: many.lost_frames,
                touched,
                device,
                longest_ratio_to_single_p99: longest
                    .zip(single)
                    .map(|(longest, single)| longest / single.p99_us),
            });
        }
    }

    fn compare_with_rfc(&mut self) {
        let rfc: Vec<(PageSize, f64)> = self
            .cases
            .iter()
            .filter(|case| case.method == Method::Rfc)
            .filter_map(|case| Some((case.page_size, case.touched?.p99_us)))
            .collect();
        for case in &mut self.cases {
            let same = rfc.iter().find(|(size, _)| *size == case.page_size);
            case.touched_ratio_to_rfc = case
                .touched
                .zip(same)
                .map(|(times, (_, rfc))| times.p99_us / rfc);
        }
    }
}

impl Report for BlackoutReport {
    const SCHEMA: &'static str = "pagemend.bench.blackout/1";

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "A vCPU touches a healthy word of a page in which a frame has failed (emulated): what \
             it waits,"
        )?;
        writeln!(
            out,
            "and the longest gap that another vCPU sees from the touch on. All memory was in use \
             right before."
        )?;
        writeln!(out)?;
        let mut table = Table::new(&[
            "",
            "page",
            "samples",
            "waits p50",
            "p99",
            "max",
            "x copy",
            "x rfc",
            "gap p50",
            "p99",
            "max",
        ]);
        let shown = |times: &Option<Times>| match times {
            Some(times) => [times.p50_us, times.p99_us, times.max_us].map(time),
            None => ["-", "-", "-"].map(str::to_owned),
        };
        let factor = |ratio: Option<f64>| match ratio {
            Some(ratio) if ratio < 0.1 => format!("1/{:.0}", 1.0 / ratio),
            Some(ratio) => format!("{ratio:.2}"),
            None => "-".to_owned(),
        };
        for case in &self.cases {
            let head = [
                case.method.name().to_owned(),
                case.page_size.to_string(),
                case.samples.to_string(),
            ];
            let ratios = [
                factor(case.touched_ratio_to_memcpy_2m),
                factor(case.touched_ratio_to_rfc),
            ];
            let [touched, bystander] = [&case.touched, &case.bystander].map(shown);
            table.row(
                head.into_iter()
                    .chain(touched)
                    .chain(ratios)
                    .chain(bystander),
            );
        }
        for base in &self.baseline {
            let head = [
                base.name().to_owned(),
                base.page_size.to_string(),
                base.samples.to_string(),
            ];
            let [touched, bystander] = [&base.touched, &base.bystander].map(shown);
            let none = ["-", "-"].map(str::to_owned);
            table.row(head.into_iter().chain(touched).chain(none).chain(bystander));
        }
        table.write(out)?;
        writeln!(out)?;
        if let Some(copy) = self.memcpy_2m_us {
            writeln!(
                out,
                "x copy, x rfc: the 99th percentile to the median copy of 2 MiB between huge pages, \
                 {}, and to rfc's.",
                time(copy)
            )?;
        }
        writeln!(
            out,
            "copying: no error, and a thread beside the guest that copies as much as a mend does."
        )?;
        for case in &self.cases {
            self.write_details(out, case)?;
        }
        for many in &self.many {
            many.write(out)?;
        }
        for Skipped { page_size, why } in &self.skipped {
            writeln!(out, "Not measured: pages of {page_size}: {why}")?;
        }
        Ok(())
    }

    fn plot(&self) -> Plot {
        let row = |label: String, times: &Option<Times>| {
            times.map(|times| Row {
                label,
                low: times.p50_us,
                mark: times.p99_us,
                high: times.max_us,
            })
        };
        let cases = self.cases.iter().flat_map(|case| {
            let name = format!("{}, {}", case.method.name(), case.page_size);
            [
                row(format!("{name}: waits"), &case.touched),
                row(format!("{name}: others' gap"), &case.bystander),
            ]
        });
        let baseline = self.baseline.iter().map(|base| {
            let label = format!("{}, {}: others' gap", base.name(), base.page_size);
            row(label, &base.bystander)
        });
        let copy = row("copy of 2 MiB".to_owned(), &self.memcpy_2m);
        Plot {
            title: "Waiting for failed memory".to_owned(),
            caption: "From median to maximum, the mark and the number at the 99th percentile"
                .to_owned(),
            logarithmic: true,
            unit: time,
            rows: cases.chain(baseline).chain([copy]).flatten().collect(),
        }
    }
}

impl BlackoutReport {
    fn write_details(&self, out: &mut impl Write, case: &Case) -> io::Result<()> {
        let name = format!("{}, {}", case.method.name(), case.page_size);
        if let Some(told) = case.told {
            writeln!(
                out,
                "{name}: from the touch of a lost frame to the guest's machine check: p50 {}, p99 \
                 {}, max {}",
                time(told.p50_us),
                time(told.p99_us),
                time(told.max_us)
            )?;
        }
        if let Some(split) = case.split {
            writeln!(
                out,
                "{name}: of the wait, the copying alone: p50 {}, max {}",
                time(split.p50_us),
                time(split.max_us)
            )?;
        }
        if let Some((completed, rate)) = case.completed.zip(case.completed_rate_to_memcpy) {
            writeln!(
                out,
                "{name}: all of the page is back after: p50 {}, max {}; {rate:.2} of the rate of \
                 the copies",
                time(completed.p50_us),
                time(completed.max_us)
            )?;
        }
        for wait in &case.waits {
            wait.write(out, &name)?;
        }
        if let Some(stream) = &case.stream {
            stream.write(out, &name)?;
        }
        match case.pages_after.as_slice() {
            [] => Ok(()),
            pieces => writeln!(
                out,
                "{name}: a guest's failed pages are then {}",
                listed(pieces)
            ),
        }
    }
}

impl Baseline {
    fn name(&self) -> &'static str {
        match self.copying {
            true => "copying",
            false => "no error",
        }
    }
}

impl Many {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self {
            page_size,
            errors,
            pages,
            lost_frames,
            ..
        } = self;
        writeln!(
            out,
            "{errors} errors at once over {}, in {pages} pages of {page_size}: {lost_frames} frames \
             lost, no other",
            Size(self.memory_bytes)
        )?;
        for (who, times) in [("a vCPU", &self.touched), ("a device", &self.device)] {
            if let Some(Times {
                p50_us,
                p99_us,
                max_us,
            }) = times.as_ref()
            {
                let [p50, p99, max] = [*p50_us, *p99_us, *max_us].map(time);
                writeln!(
                    out,
                    "  {who} waits for healthy words: p50 {p50}, p99 {p99}, max {max}"
                )?;
            }
        }
        match self.longest_ratio_to_single_p99 {
            Some(ratio) => writeln!(
                out,
                "  the longest wait is {ratio:.1} x the 99th percentile with one failed page"
            ),
            None => Ok(()),
        }
    }
}
