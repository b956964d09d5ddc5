//! What the ledger of lost frames costs, next to the set that anybody would take instead. That one
//! only knows which frames are lost; the ledger also knows when, why, in which order, and who was
//! told.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::time::Instant;

use clap::Args;
use oorandom::Rand64;
use pagemend::{Cause, FRAME_SIZE, Gpa, GpaRange, PageSize, Timestamp};
use serde::Serialize;

use super::error::BenchError;
use super::output::{Output, Report};
use super::plot::{Plot, Row};
use super::room::Room;
use super::spread::Quartiles;
use super::table::{Table, time};
use crate::interrupt;
use crate::progress::Progress;

/// The guest whose frames are lost: 640 GiB, in frames.
const GUEST_FRAMES: u64 = (640 << 30) / FRAME_SIZE;
/// Questions that are asked of a full ledger in one round.
const QUESTIONS: u64 = 100_000;
/// Bytes that a lost frame takes in both structures together, at most.
const BYTES_A_FRAME: u64 = 200;

/// Measures the ledger of lost frames next to a BTreeSet.
///
/// Random frames of a guest of 640 GiB are lost, one after another; then both are asked whether a
/// frame is lost, and whether a page of 2 MiB has lost anything.
#[derive(Debug, Args)]
pub(super) struct Ledger {
    /// Frames that are lost.
    #[arg(long, default_value_t = 1_000_000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=20_000_000))]
    lost: u64,
    /// How often all of it is done.
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Decides which frames are lost.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Serialize)]
pub(super) struct LedgerReport {
    lost_frames: u64,
    rounds: u32,
    ledger_bytes: u64,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Case {
    operation: &'static str,
    ledger_ns: f64,
    btree_set_ns: f64,
    /// Of the ledger's time to the set's.
    ratio_to_btree_set: Quartiles,
}

/// What is asked of both.
trait Frames: Default {
    fn insert(&mut self, frame: u64) -> bool;
    fn contains(&self, frame: u64) -> bool;
    fn overlaps(&self, frame: u64) -> bool;
}

impl Frames for pagemend::Ledger {
    fn insert(&mut self, frame: u64) -> bool {
        // A microsecond from one to the next.
        let when = Timestamp::from_nanos(self.len() * 1000);
        self.insert(Gpa::new(frame * FRAME_SIZE), Cause::ActionRequired, when)
    }

    fn contains(&self, frame: u64) -> bool {
        self.contains(Gpa::new(frame * FRAME_SIZE))
    }

    fn overlaps(&self, frame: u64) -> bool {
        let page = Gpa::new(frame * FRAME_SIZE).align_down(PageSize::SIZE_2M);
        self.overlaps(&GpaRange::page(page, PageSize::SIZE_2M))
    }
}

impl Frames for BTreeSet<u64> {
    fn insert(&mut self, frame: u64) -> bool {
        self.insert(frame)
    }

    fn contains(&self, frame: u64) -> bool {
        self.contains(&frame)
    }

    fn overlaps(&self, frame: u64) -> bool {
        let first = frame / PageSize::SIZE_2M.frames() * PageSize::SIZE_2M.frames();
        self.range(first..first + PageSize::SIZE_2M.frames())
            .next()
            .is_some()
    }
}

const OPERATIONS: [&str; 3] = ["insert", "contains", "overlaps 2 MiB"];

/// A structure after a round, how many nanoseconds each operation took, and how often the answer
/// was yes: all structures have to agree.
struct Round<F> {
    frames: F,
    nanos: [f64; 3],
    yes: u64,
}

fn round<F: Frames>(lost: u64, seed: u64) -> Round<F> {
    let mut random = Rand64::new(seed.into());
    let mut any = || random.rand_range(0..GUEST_FRAMES);
    let timed = |times: u64, ask: &mut dyn FnMut() -> u64| {
        let start = Instant::now();
        let yes = black_box(ask());
        (start.elapsed().as_nanos() as f64 / times as f64, yes)
    };
    let mut frames = F::default();
    let (insert, inserted) = timed(lost, &mut || {
        (0..lost).map(|_| u64::from(frames.insert(any()))).sum()
    });
    let (contains, found) = timed(QUESTIONS, &mut || {
        let ask = |_| u64::from(frames.contains(any()));
        (0..QUESTIONS).map(ask).sum()
    });
    let (overlaps, met) = timed(QUESTIONS, &mut || {
        let ask = |_| u64::from(frames.overlaps(any()));
        (0..QUESTIONS).map(ask).sum()
    });
    Round {
        frames,
        nanos: [insert, contains, overlaps],
        yes: inserted + found + met,
    }
}

impl Ledger {
    pub(super) fn measure(&self) -> Result<LedgerReport, BenchError> {
        let interrupted = interrupt::noted().map_err(BenchError::system("Ctrl-C"))?;
        let room = Room {
            guest: None,
            other: self.lost * BYTES_A_FRAME,
        };
        room.get()?;
        let mut ledger_bytes = 0;
        let (mut ledgers, mut sets) = ([const { vec![] }; 3], [const { vec![] }; 3]);
        let progress = Progress::new("losing frames", self.rounds.into());
        for number in 0..u64::from(self.rounds) {
            if interrupted.load(Ordering::Relaxed) {
                return Err(BenchError::Interrupted);
            }
            let seed = self.seed.wrapping_add(number);
            let ledger: Round<pagemend::Ledger> = round(self.lost, seed);
            let set: Round<BTreeSet<u64>> = round(self.lost, seed);
            if ledger.yes != set.yes {
                let wrong = ledger.yes.abs_diff(set.yes);
                return Err(BenchError::Wrong { wrong });
            }
            ledger_bytes = ledger.frames.memory_bytes() as u64;
            for operation in 0..OPERATIONS.len() {
                ledgers[operation].push(ledger.nanos[operation]);
                sets[operation].push(set.nanos[operation]);
            }
            progress.advance();
        }
        let cases = OPERATIONS.into_iter().zip(ledgers.iter().zip(&sets));
        let cases = cases.filter_map(|(operation, (ledger, set))| {
            Some(Case {
                operation,
                ledger_ns: Quartiles::of(ledger.iter().copied())?.median,
                btree_set_ns: Quartiles::of(set.iter().copied())?.median,
                ratio_to_btree_set: Quartiles::of_ratios(ledger, set)?,
            })
        });
        Ok(LedgerReport {
            lost_frames: self.lost,
            rounds: self.rounds,
            ledger_bytes,
            cases: cases.collect(),
        })
    }
}

impl Report for LedgerReport {
    const SCHEMA: &'static str = "pagemend.bench.ledger/1";

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let each = self.ledger_bytes as f64 / self.lost_frames as f64;
        writeln!(
            out,
            "A ledger of {} lost frames in a guest of 640 GiB, {each:.1} bytes for each",
            self.lost_frames
        )?;
        writeln!(out)?;
        let mut table = Table::new(&["", "ledger", "BTreeSet", "x BTreeSet", "quartiles"]);
        for case in &self.cases {
            let Quartiles { low, median, high } = case.ratio_to_btree_set;
            table.row([
                case.operation.to_owned(),
                time(case.ledger_ns / 1e3),
                time(case.btree_set_ns / 1e3),
                format!("{median:.2}"),
                format!("{low:.2} .. {high:.2}"),
            ]);
        }
        table.write(out)
    }

    fn plot(&self) -> Plot {
        Plot {
            title: format!("A ledger of {} lost frames", self.lost_frames),
            caption: "Its time, a BTreeSet's being 1: quartiles".to_owned(),
            logarithmic: false,
            unit: |ratio| format!("{ratio:.2}"),
            rows: self
                .cases
                .iter()
                .map(|case| Row {
                    label: case.operation.to_owned(),
                    low: case.ratio_to_btree_set.low,
                    mark: case.ratio_to_btree_set.median,
                    high: case.ratio_to_btree_set.high,
                })
                .collect(),
        }
    }
}
