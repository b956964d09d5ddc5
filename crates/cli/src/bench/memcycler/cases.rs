//! What is compared: memory that nothing happened to, and the same amount of it after errors.

use std::time::Duration;

use clap::ValueEnum;
use oorandom::Rand64;
use pagemend::{FRAME_SIZE, GpaRange, Pagemend};
use serde::Serialize;

use super::{Access, Pattern};
use crate::bench::error::BenchError;
use crate::bench::huge::HugePages;
use crate::bench::pieces::Piece;

/// What was done about errors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Policy {
    /// There were none.
    #[value(skip)]
    Healthy,
    /// There were none here either: how far apart two memories are that are alike.
    HealthyAgain,
    /// There were none, and pagemend is there for when there is one.
    Watched,
    /// Each page that was hit is pages of 4 KiB now.
    Split,
    /// Each page that was hit was mended.
    Mend,
    /// The same, and healed: the guest alone keeps off the lost frames.
    #[value(name = "mend+heal")]
    #[serde(rename = "mend+heal")]
    MendHeal,
}

impl Policy {
    /// What can be compared with healthy memory.
    pub(super) const OTHERS: [Self; 5] = [
        Self::HealthyAgain,
        Self::Watched,
        Self::Split,
        Self::Mend,
        Self::MendHeal,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::HealthyAgain => "healthy again",
            Self::Watched => "watched",
            Self::Split => "split",
            Self::Mend => "mend",
            Self::MendHeal => "mend+heal",
        }
    }

    /// Whether nothing happens to the memory.
    pub(super) fn spares(self) -> bool {
        matches!(self, Self::Healthy | Self::HealthyAgain | Self::Watched)
    }

    /// Whether pagemend looks after the memory.
    pub(super) fn is_watched(self) -> bool {
        self.mends() || self == Self::Watched
    }

    /// Whether pages that were hit are mended.
    pub(super) fn mends(self) -> bool {
        matches!(self, Self::Mend | Self::MendHeal)
    }
}

/// One of the things that take turns.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) policy: Policy,
    /// Where the lost frames are, from the beginning of the memory, in order: at most one in each
    /// huge page.
    pub(super) lost: Vec<u64>,
}

/// All cases on one page size, and how they are measured.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) huge: HugePages,
    /// Memory of each case.
    pub(super) bytes: u64,
    pub(super) threads: u8,
    pub(super) pattern: Pattern,
    pub(super) rounds: u32,
    pub(super) turn: Duration,
    /// The first is the healthy one.
    pub(super) cases: Vec<Case>,
    /// What nobody uses, in order: what is lost where most is. Memory of which nothing is lost is
    /// used around the same frames, because leaving some out makes a processor slower by itself.
    pub(super) left_out: Vec<u64>,
}

impl Setup {
    /// Pages that are hit, of all cases together.
    pub(super) fn hits(&self) -> u64 {
        self.cases.iter().map(|case| case.lost.len() as u64).sum()
    }

    /// Those of them that are mended.
    pub(super) fn mends(&self) -> u64 {
        let cases = self.cases.iter().filter(|case| case.policy.mends());
        cases.map(|case| case.lost.len() as u64).sum()
    }

    /// The beginning of the huge page around a place in the memory.
    pub(super) fn page_of(&self, lost: u64) -> u64 {
        lost / self.huge.bytes() * self.huge.bytes()
    }

    /// What the memory of a case consists of where pages that were hit have been split.
    pub(super) fn split_pieces(&self, case: &Case) -> Vec<Piece> {
        let split = case.lost.len() as u64 * self.huge.bytes();
        let sizes = [
            (self.huge.size(), self.bytes - split),
            (pagemend::PageSize::SIZE_4K, split),
        ];
        sizes
            .into_iter()
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(page_size, bytes)| Piece { page_size, bytes })
            .collect()
    }
}

/// Heals what was mended in `range`, all of it.
pub(super) fn heal(pagemend: &Pagemend, range: GpaRange) -> Result<(), BenchError> {
    let healed = pagemend.heal(range).map_err(|gone| BenchError::NotHealed {
        why: gone.to_string(),
    })?;
    match healed.failed.first() {
        Some(unhealed) => Err(BenchError::NotHealed {
            why: unhealed.reason.to_string(),
        }),
        None => Ok(()),
    }
}

/// What a case has come to.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    /// Words a microsecond of all threads together, by round, in the order of [`Access::ALL`].
    pub(super) rates: [Vec<f64>; Access::ALL.len()],
    pub(super) pieces: Vec<Piece>,
}

/// Which frames fail, one in each of some of so many pages: any number of them, the fewer being among
/// the more.
pub(super) struct Failing(Vec<u64>);

impl Failing {
    pub(super) fn choose(huge: HugePages, pages: u64, most: u64, random: &mut Rand64) -> Self {
        let mut numbers: Vec<u64> = (0..pages).collect();
        for chosen in 0..most {
            numbers.swap(chosen as usize, random.rand_range(chosen..pages) as usize);
        }
        numbers.truncate(most as usize);
        let frames = huge.size().frames();
        let frame = |page| page * huge.bytes() + random.rand_range(0..frames) * FRAME_SIZE;
        Self(numbers.into_iter().map(frame).collect())
    }

    /// So many of them, in order.
    pub(super) fn some(&self, hit: u64) -> Vec<u64> {
        let mut lost = self.0[..hit as usize].to_vec();
        lost.sort_unstable();
        lost
    }

    /// All, in order.
    pub(super) fn all(&self) -> Vec<u64> {
        self.some(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_hit_different_pages_and_the_same_ones_for_a_seed() {
        let chosen = |seed| Failing::choose(HugePages::Two, 40, 10, &mut Rand64::new(seed)).all();
        let lost = chosen(1);
        assert_eq!(lost.len(), 10);
        assert!(lost.windows(2).all(|two| two[0] >> 21 < two[1] >> 21));
        assert!(lost.iter().all(|at| at % FRAME_SIZE == 0 && *at < 80 << 20));
        assert_eq!(lost, chosen(1));
        assert_ne!(lost, chosen(2));
    }

    #[test]
    fn what_fails_where_little_does_fails_where_more_does() {
        let failing = Failing::choose(HugePages::Two, 40, 10, &mut Rand64::new(1));
        let (few, all) = (failing.some(3), failing.all());
        assert_eq!((few.len(), all.len()), (3, 10));
        assert!(few.is_sorted() && few.iter().all(|lost| all.contains(lost)));
    }
}
