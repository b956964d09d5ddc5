//! What memory is worth after errors: how fast it can be used when pages around the lost frames are
//! as large as before, and when they are not. The benchmark is the one that was published with the
//! proposal for a kernel policy: MemCycler.

mod cases;
mod field;
mod inside;
mod process;
mod report;
mod walk;

use std::collections::BTreeSet;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::Args;
use oorandom::Rand64;
use pagemend::available_memory;
use pagemend::probe::Pool;

use self::cases::{Case, Failing, Policy, Setup};
pub(super) use self::report::MemcyclerReport;
use super::error::BenchError;
use super::huge::HugePages;
use super::output::Output;
use crate::chain;
use crate::interrupt;
use crate::size::Size;

/// Measures how fast memory can be used after errors have hit it.
///
/// Threads check and rewrite every 64-bit word of their part of guest memory, and check and write
/// apart from each other. Cases: healthy memory, twice; memory of which some huge pages were hit by an
/// error each, and replaced by pages of 4 KiB (split), or mended, or mended and then healed
/// (mend+heal). All cases take turns, again and again; ratios are to the healthy case of the same round. Errors are emulated.
#[derive(Debug, Args)]
pub(super) struct Memcycler {
    /// Guest memory's pages: both that the machine has room for unless said.
    #[arg(long, value_enum, value_delimiter = ',')]
    page_size: Vec<HugePages>,
    /// Memory of each case: 256M unless said, 1G on pages of 1 GiB.
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Percentages of the huge pages that are hit, rounded up to whole pages: 5,25 unless said, 100
    /// on pages of 1 GiB. Healthy memory is always measured.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',',
          value_parser = clap::value_parser!(u8).range(0..=100))]
    hit: Vec<u8>,
    /// What was done about it, all unless said; healthy-again is a second memory that nothing happened
    /// to, which shows how much of a difference says nothing; watched is one that pagemend looks after.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Policy::OTHERS)]
    policy: Vec<Policy>,
    /// Use one word every so many bytes only: 4160 is a word a page, and each in another cache set.
    #[arg(long, value_name = "BYTES", conflicts_with = "random")]
    stride: Option<Size>,
    /// Use words in random order.
    #[arg(long)]
    random: bool,
    /// Use the memory from inside a guest on this machine's KVM.
    #[arg(long, conflicts_with = "random")]
    guest: bool,
    /// Threads, or vCPUs. One for each processor unless said, at most 8.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    threads: Option<u8>,
    /// How often all cases have their turn.
    #[arg(long, default_value_t = 9, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds of a turn for each of reads, writes, and both.
    #[arg(long, default_value_t = 100, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=60_000))]
    turn: u64,
    /// Decides which frames fail.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    pub(super) output: Output,
}

const WORD: u64 = size_of::<u64>() as u64;

/// What is done with a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Both,
    Reads,
    Writes,
}

impl Access {
    const ALL: [Self; 3] = [Self::Both, Self::Reads, Self::Writes];
}

/// In which order words are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pattern {
    /// One every so many bytes: 8 is each.
    Stride(u64),
    Random,
}

impl Memcycler {
    pub(super) fn measure(&self) -> Result<MemcyclerReport, BenchError> {
        let pattern = self.pattern()?;
        let interrupted = interrupt::noted().map_err(BenchError::system("Ctrl-C"))?;
        let place = if self.guest { "guest" } else { "process" };
        let threads = self
            .threads
            .unwrap_or_else(|| available_parallelism().map_or(1, |count| count.get().min(8) as u8));
        let mut report = MemcyclerReport::new(place, pattern, (threads, self.rounds, self.turn));
        let sizes = match self.page_size.as_slice() {
            [] => &HugePages::ALL,
            named => named,
        };
        for huge in sizes {
            let setup = self.setup(*huge, threads, pattern)?;
            let room = match self.guest {
                true => inside::room(&setup),
                false => process::room(&setup),
            };
            let pool = match room.get() {
                Ok(pool) => pool,
                Err(error) if self.page_size.is_empty() => {
                    report.skip(huge.size(), chain(&error));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let samples = match self.guest {
                true => inside::measure(&setup, &interrupted)?,
                false => process::measure(&setup, &interrupted)?,
            };
            report.add(&setup, samples);
            drop(pool);
        }
        match report.is_empty() {
            Some(why) => Err(BenchError::NoRoom { why }),
            None => Ok(report),
        }
    }

    fn pattern(&self) -> Result<Pattern, BenchError> {
        match self.stride {
            _ if self.random => Ok(Pattern::Random),
            None => Ok(Pattern::Stride(WORD)),
            Some(Size(bytes)) if bytes > 0 && bytes.is_multiple_of(WORD) => {
                Ok(Pattern::Stride(bytes))
            }
            Some(_) => Err(BenchError::Option {
                option: "--stride",
                why: "whole words of 8 bytes are used".to_owned(),
            }),
        }
    }

    fn setup(&self, huge: HugePages, threads: u8, pattern: Pattern) -> Result<Setup, BenchError> {
        let wrong = |option, why: String| Err(BenchError::Option { option, why });
        let bytes = self.memory.map_or(huge.usual(), |Size(bytes)| bytes);
        if bytes == 0 || !bytes.is_multiple_of(huge.bytes()) {
            return wrong("--memory", format!("it is made of whole pages of {huge}"));
        }
        // Before anything is planned for each page of it.
        let spare = Pool::of(huge.size()).map_or(0, |pool| pool.spare() * huge.bytes());
        let available = available_memory().map_or(u64::MAX, |free| free.saturating_add(spare));
        if bytes > available {
            return Err(BenchError::TooLarge {
                needed: Size(bytes),
                available: Size(available),
            });
        }
        if bytes / field::SLOT < threads.into() {
            return wrong(
                "--threads",
                format!("each needs {} to work on", Size(field::SLOT)),
            );
        }
        if self.guest && bytes > inside::MOST {
            return wrong(
                "--memory",
                format!("a guest uses at most {}", Size(inside::MOST)),
            );
        }
        let pages = bytes / huge.bytes();
        let percents = match (self.hit.as_slice(), huge) {
            ([], HugePages::Two) => &[5, 25][..],
            ([], HugePages::Gigantic) => &[100],
            (named, _) => named,
        };
        let hits = percents
            .iter()
            .map(|percent| (pages * u64::from(*percent)).div_ceil(100));
        let hits: BTreeSet<u64> = hits.filter(|hit| *hit > 0).collect();
        let most = hits.last().copied().unwrap_or(0);
        let failing = Failing::choose(huge, pages, most, &mut Rand64::new(self.seed.into()));
        let mut cases = vec![Case {
            policy: Policy::Healthy,
            lost: vec![],
        }];
        // In a guest every case is watched.
        let spared = [Policy::HealthyAgain, Policy::Watched].into_iter();
        let spared = spared.filter(|policy| self.policy.contains(policy));
        cases.extend(
            spared
                .filter(|policy| !(self.guest && *policy == Policy::Watched))
                .map(|policy| Case {
                    policy,
                    lost: vec![],
                }),
        );
        for hit in hits {
            let lost = failing.some(hit);
            cases.extend(
                Policy::OTHERS
                    .into_iter()
                    .filter(|policy| self.policy.contains(policy) && !policy.spares())
                    .map(|policy| Case {
                        policy,
                        lost: lost.clone(),
                    }),
            );
        }
        Ok(Setup {
            huge,
            bytes,
            threads,
            pattern,
            rounds: self.rounds,
            turn: Duration::from_millis(self.turn),
            cases,
            left_out: failing.all(),
        })
    }
}

impl HugePages {
    /// Memory of a case unless said: more than the processor's caches and translations hold.
    fn usual(self) -> u64 {
        match self {
            Self::Two => 256 << 20,
            Self::Gigantic => 1 << 30,
        }
    }
}
