//! How fast the bytes of a huge page are read back through its file, by the size of the reads.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;
use pagemend::{GuestMemory, PageSize};
use serde::Serialize;

use super::error::BenchError;
use super::huge::HugePages;
use super::output::{Output, Report};
use super::plot::{Plot, Row};
use super::room::Room;
use super::spread::Quartiles;
use super::table::Table;
use crate::interrupt;
use crate::progress::Progress;
use crate::size::Size;

/// Read sizes, each larger than the one before; none larger than the page.
const READS: [u64; 6] = [4 << 10, 64 << 10, 512 << 10, 2 << 20, 32 << 20, 1 << 30];

/// Measures how fast a page is read back through its file, by read size, next to memcpy.
///
/// The page is healthy. On a page that the kernel has poisoned each read also looks at all the
/// rest of the page, which makes small reads much slower than what is measured here.
#[derive(Debug, Args)]
pub(super) struct Salvage {
    /// The page to read.
    #[arg(long, value_enum, default_value = "2M")]
    page_size: HugePages,
    /// How often the page is read with each size: 101 times unless said, 5 times if it has 1 GiB.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Serialize)]
pub(super) struct SalvageReport {
    page_size: PageSize,
    rounds: u32,
    memcpy_bytes_per_second: Option<f64>,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Case {
    read_bytes: u64,
    bytes_per_second: f64,
    /// Of its rate to memcpy's.
    ratio_to_memcpy: Quartiles,
}

impl Salvage {
    pub(super) fn measure(&self) -> Result<SalvageReport, BenchError> {
        let interrupted = interrupt::noted().map_err(BenchError::system("Ctrl-C"))?;
        let len = self.page_size.bytes();
        let room = Room {
            guest: Some((self.page_size.size(), len)),
            other: 2 * len,
        };
        let _pool = room.get()?;
        let rounds = self.rounds.unwrap_or(match self.page_size {
            HugePages::Two => 101,
            HugePages::Gigantic => 5,
        });
        let memory = GuestMemory::new(self.page_size.kind(), len)?;
        for (value, word) in memory.words().iter().enumerate() {
            word.store(value as u64, Ordering::Relaxed);
        }
        let file = memory.file().ok_or(io::ErrorKind::Unsupported.into());
        let file = file.and_then(|file| file.try_clone_to_owned());
        let file = File::from(file.map_err(BenchError::system("the page's file"))?);
        let (from, mut to) = (vec![1; len as usize], vec![2; len as usize]);
        let sizes = READS.into_iter().filter(|size| *size <= len);
        let mut reads: Vec<(u64, Vec<f64>)> = sizes.map(|size| (size, vec![])).collect();
        let mut copies = vec![];
        let progress = Progress::new("reading a page", rounds.into());
        for _ in 0..rounds {
            if interrupted.load(Ordering::Relaxed) {
                return Err(BenchError::Interrupted);
            }
            let start = Instant::now();
            black_box(&mut to[..]).copy_from_slice(black_box(&from));
            copies.push(start.elapsed().as_secs_f64());
            for (size, took) in &mut reads {
                let start = Instant::now();
                for (number, piece) in to.chunks_mut(*size as usize).enumerate() {
                    let read = file.read_exact_at(piece, number as u64 * *size);
                    read.map_err(BenchError::system("reading the page"))?;
                }
                took.push(start.elapsed().as_secs_f64());
                check(memory.words(), &to)?;
            }
            progress.advance();
        }
        let rate = |seconds: f64| len as f64 / seconds;
        let cases = reads.into_iter().filter_map(|(read_bytes, took)| {
            Some(Case {
                read_bytes,
                ratio_to_memcpy: Quartiles::of_ratios(&copies, &took)?,
                bytes_per_second: rate(Quartiles::of(took)?.median),
            })
        });
        Ok(SalvageReport {
            page_size: self.page_size.size(),
            rounds,
            cases: cases.collect(),
            memcpy_bytes_per_second: Quartiles::of(copies.clone()).map(|took| rate(took.median)),
        })
    }
}

/// Whether what was read is what is there.
fn check(words: &[AtomicU64], read: &[u8]) -> Result<(), BenchError> {
    let read = read.as_chunks().0.iter().copied().map(u64::from_ne_bytes);
    let pairs = words.iter().zip(read);
    match pairs
        .filter(|(word, read)| word.load(Ordering::Relaxed) != *read)
        .count()
    {
        0 => Ok(()),
        wrong => Err(BenchError::Wrong {
            wrong: wrong as u64,
        }),
    }
}

fn gigabytes(rate: f64) -> String {
    format!("{:.2} GB/s", rate / 1e9)
}

impl Report for SalvageReport {
    const SCHEMA: &'static str = "pagemend.bench.salvage/1";

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "Reading a healthy page of {} through its file",
            self.page_size
        )?;
        writeln!(out)?;
        let mut table = Table::new(&["read size", "rate", "x memcpy", "quartiles"]);
        for case in &self.cases {
            let Quartiles { low, median, high } = case.ratio_to_memcpy;
            table.row([
                Size(case.read_bytes).to_string(),
                gigabytes(case.bytes_per_second),
                format!("{median:.2}"),
                format!("{low:.2} .. {high:.2}"),
            ]);
        }
        if let Some(rate) = self.memcpy_bytes_per_second {
            table.row(["memcpy".to_owned(), gigabytes(rate), "1".to_owned()]);
        }
        table.write(out)
    }

    fn plot(&self) -> Plot {
        Plot {
            title: format!("Reading back a page of {}", self.page_size),
            caption: "Its rate by the size of the reads, memcpy's being 1: quartiles".to_owned(),
            logarithmic: false,
            unit: |ratio| format!("{ratio:.2}"),
            rows: self
                .cases
                .iter()
                .map(|case| Row {
                    label: format!("reads of {}", Size(case.read_bytes)),
                    low: case.ratio_to_memcpy.low,
                    mark: case.ratio_to_memcpy.median,
                    high: case.ratio_to_memcpy.high,
                })
                .collect(),
        }
    }
}
