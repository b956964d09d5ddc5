//! What was done about each fault, and how long it took.

use pagemend::{Action, Cause, Gpa, Reason, Step};
use serde::Serialize;

use super::run::Outcome;

/// A fault that something was done about. Faults on frames that were known to be lost, or in order
/// again, are not told.
#[derive(Debug, Serialize)]
pub(super) struct Treated {
    /// From the first injection to the fault's arrival.
    pub(super) at_micros: f64,
    pub(super) cause: Cause,
    pub(super) gpa: Gpa,
    /// Bytes that the kernel took away.
    pub(super) page_bytes: u64,
    pub(super) action: Action,
    /// From the fault's arrival at the mender to its answer.
    pub(super) micros: f64,
    pub(super) recovered_bytes: u64,
    pub(super) lost_bytes: u64,
    /// Why it was not more.
    pub(super) reasons: Vec<String>,
}

/// How long the faults of one kind took.
#[derive(Debug, Serialize)]
pub(super) struct MendMicros {
    pub(super) action: Action,
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

pub(super) fn timeline(outcome: &Outcome) -> Vec<Treated> {
    // The events of a fault follow one another: the mender handles one at a time.
    let faults = outcome.events.chunk_by(|a, b| a.fault == b.fault);
    faults
        .filter_map(|events| {
            let mut hit = None;
            let (mut recovered, mut lost) = (0, 0);
            let mut why: Vec<&Reason> = vec![];
            for event in events {
                match &event.step {
                    Step::Fault { gpa, cause, .. } => hit = Some((*gpa, *cause)),
                    Step::Salvage {
                        recovered_bytes, ..
                    } => recovered = *recovered_bytes,
                    Step::Record { lost_bytes, .. } => lost += lost_bytes,
                    Step::Swap { reasons, .. } => why.extend(reasons),
                    Step::Done {
                        action: Some(action),
                        total_ns,
                        reasons,
                        ..
                    } => {
                        let (gpa, cause) = hit?;
                        let arrived = event.time.nanos().saturating_sub(*total_ns);
                        why.extend(reasons);
                        return Some(Treated {
                            at_micros: micros(arrived.saturating_sub(outcome.started_ns)),
                            cause,
                            gpa,
                            page_bytes: event.page.len(),
                            action: *action,
                            micros: micros(*total_ns),
                            recovered_bytes: recovered,
                            lost_bytes: lost,
                            reasons: why.into_iter().map(Reason::to_string).collect(),
                        });
                    }
                    _ => {}
                }
            }
            None
        })
        .collect()
}

/// Of the mends; where nothing had to be mended, of what was done instead.
pub(super) fn mend_micros(timeline: &[Treated]) -> Option<MendMicros> {
    let by_weight = [
        Action::Mend,
        Action::Discard,
        Action::Abandon,
        Action::Keep,
        Action::Record,
    ];
    by_weight.into_iter().find_map(|action| {
        let mut times: Vec<f64> = timeline
            .iter()
            .filter(|treated| treated.action == action)
            .map(|treated| treated.micros)
            .collect();
        times.sort_by(f64::total_cmp);
        // The nearest rank.
        let percentile = |percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
        (!times.is_empty()).then(|| MendMicros {
            action,
            count: times.len() as u64,
            p50: percentile(50),
            p99: percentile(99),
            max: percentile(100),
        })
    })
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}
