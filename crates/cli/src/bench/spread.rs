//! Samples in three numbers: the tail for waits, the quartiles for rates and ratios.

use serde::Serialize;

/// How long something took, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Times {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
}

impl Times {
    /// Of samples in microseconds; `None` where there are none.
    pub(super) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        Some(Self {
            p50_us: rank(&samples, 50)?,
            p99_us: rank(&samples, 99)?,
            max_us: rank(&samples, 100)?,
        })
    }
}

/// Median and quartiles.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Quartiles {
    pub(super) low: f64,
    pub(super) median: f64,
    pub(super) high: f64,
}

impl Quartiles {
    /// Of some samples; `None` where there are none.
    pub(super) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut samples: Vec<f64> = samples.into_iter().collect();
        samples.sort_by(f64::total_cmp);
        Some(Self {
            low: rank(&samples, 25)?,
            median: rank(&samples, 50)?,
            high: rank(&samples, 75)?,
        })
    }

    /// Of the quotients of samples that were taken in turn.
    pub(super) fn of_ratios(above: &[f64], below: &[f64]) -> Option<Self> {
        Self::of(above.iter().zip(below).map(|(above, below)| above / below))
    }
}

/// The smallest sample that so many percent of them do not exceed.
fn rank(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_sample_that_so_many_do_not_exceed() {
        let times = Times::of((1..=200).map(f64::from).collect()).unwrap();
        assert_eq!(
            (times.p50_us, times.p99_us, times.max_us),
            (100.0, 198.0, 200.0)
        );
        let few = Times::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((few.p50_us, few.p99_us, few.max_us), (2.0, 3.0, 3.0));
        assert_eq!(Times::of(vec![]), None);
    }

    #[test]
    fn ratios_are_of_what_was_measured_together() {
        let ratios = Quartiles::of_ratios(&[10.0, 40.0, 90.0], &[10.0, 20.0, 30.0]).unwrap();
        assert_eq!((ratios.low, ratios.median, ratios.high), (1.0, 2.0, 3.0));
    }
}
