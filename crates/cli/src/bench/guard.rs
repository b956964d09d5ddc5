//! What a device model pays for reaching guest memory by guarded access, which cannot die of a
//! failure, instead of by a plain copy.

use std::hint::black_box;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Args;
use pagemend::{Gpa, GuestMemory, MemoryKind, Pagemend, RegionConfig};
use serde::Serialize;

use super::error::BenchError;
use super::output::{Output, Report};
use super::plot::{Plot, Row};
use super::room::Room;
use super::spread::Quartiles;
use super::table::{Table, time};
use crate::interrupt;
use crate::progress::Progress;
use crate::size::Size;

const SIZES: [usize; 5] = [64, 512, 4 << 10, 64 << 10, 2 << 20];
const GUEST: u64 = 4 << 20;
/// Bytes that are copied before the other side has its turn.
const AT_ONCE: usize = 4 << 20;

/// Measures guarded access to healthy guest memory next to memcpy, by size.
#[derive(Debug, Args)]
pub(super) struct Guard {
    /// How often each size is copied in turn with memcpy, 4 MiB at a time.
    #[arg(long, default_value_t = 201, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Serialize)]
pub(super) struct GuardReport {
    rounds: u32,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Case {
    access: &'static str,
    bytes: u64,
    guarded_ns: f64,
    memcpy_ns: f64,
    /// Of the guarded copy's time to memcpy's.
    ratio_to_memcpy: Quartiles,
}

#[derive(Default)]
struct Samples {
    guarded: Vec<f64>,
    plain: Vec<f64>,
}

impl Guard {
    pub(super) fn measure(&self) -> Result<GuardReport, BenchError> {
        let interrupted = interrupt::noted().map_err(BenchError::system("Ctrl-C"))?;
        let room = Room {
            guest: None,
            other: 3 * GUEST,
        };
        room.get()?;
        let memory = Arc::new(GuestMemory::new(MemoryKind::Shmem, GUEST)?);
        let region = RegionConfig::of("ram", Gpa::new(0), memory);
        let region = region.map_err(BenchError::system("guest memory cannot be described"))?;
        let pagemend = Pagemend::builder().region(region).start()?;
        let guest = pagemend.memory("ram").expect("it has just been given");
        let mut own = vec![1; AT_ONCE];
        let mut other = vec![2; AT_ONCE];
        guest.write(Gpa::new(0), &own)?;

        let names = ["read", "write"];
        let mut cases: Vec<_> = SIZES
            .iter()
            .flat_map(|size| names.map(|name| (name, *size, Samples::default())))
            .collect();
        let progress = Progress::new("copying", self.rounds.into());
        for _ in 0..self.rounds {
            if interrupted.load(Ordering::Relaxed) {
                return Err(BenchError::Interrupted);
            }
            for (name, size, samples) in &mut cases {
                // The same place again and again, so that it is the access that is measured, and
                // not the memory.
                let times = (AT_ONCE / *size).min(4096);
                let (own, other) = (&mut own[..*size], &mut other[..*size]);
                let nanos = |start: Instant| start.elapsed().as_nanos() as f64 / times as f64;
                let start = Instant::now();
                for _ in 0..times {
                    match *name {
                        "read" => guest.read(black_box(Gpa::new(0)), black_box(&mut *own))?,
                        _ => guest.write(black_box(Gpa::new(0)), black_box(&*own))?,
                    }
                }
                samples.guarded.push(nanos(start));
                let start = Instant::now();
                for _ in 0..times {
                    black_box(&mut *other).copy_from_slice(black_box(&*own));
                }
                samples.plain.push(nanos(start));
            }
            progress.advance();
        }
        let cases = cases.into_iter().filter_map(|(access, size, samples)| {
            Some(Case {
                access,
                bytes: size as u64,
                ratio_to_memcpy: Quartiles::of_ratios(&samples.guarded, &samples.plain)?,
                guarded_ns: Quartiles::of(samples.guarded)?.median,
                memcpy_ns: Quartiles::of(samples.plain)?.median,
            })
        });
        Ok(GuardReport {
            rounds: self.rounds,
            cases: cases.collect(),
        })
    }
}

impl Report for GuardReport {
    const SCHEMA: &'static str = "pagemend.bench.guard/1";

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "Guarded access to healthy guest memory that is in the caches"
        )?;
        writeln!(out)?;
        let mut table = Table::new(&["", "bytes", "guarded", "memcpy", "x memcpy", "quartiles"]);
        for case in &self.cases {
            let Quartiles { low, median, high } = case.ratio_to_memcpy;
            table.row([
                case.access.to_owned(),
                Size(case.bytes).to_string(),
                time(case.guarded_ns / 1e3),
                time(case.memcpy_ns / 1e3),
                format!("{median:.2}"),
                format!("{low:.2} .. {high:.2}"),
            ]);
        }
        table.write(out)
    }

    fn plot(&self) -> Plot {
        Plot {
            title: "Guarded access to guest memory".to_owned(),
            caption: "Its time, memcpy's being 1: quartiles".to_owned(),
            logarithmic: false,
            unit: |ratio| format!("{ratio:.2}"),
            rows: self
                .cases
                .iter()
                .map(|case| Row {
                    label: format!("{} of {}", case.access, Size(case.bytes)),
                    low: case.ratio_to_memcpy.low,
                    mark: case.ratio_to_memcpy.median,
                    high: case.ratio_to_memcpy.high,
                })
                .collect(),
        }
    }
}
