//! What came of a demonstration, and whether it proves what it claims. docs/demo.md describes the
//! JSON form.

use std::collections::BTreeSet;

use pagemend::{Backing, FRAME_SIZE, Gpa, GpaRange, PageSize, Policy, Segment};
use serde::Serialize;

use super::Settings;
use super::kernel_default::KernelDefault;
use super::memory::PassedOver;
use super::run::Outcome;
use super::timeline::{MendMicros, Treated, mend_micros, timeline};
use crate::pages::Pages;

/// The name and version of the `--json` form, which docs/demo.md describes.
const SCHEMA: &str = "pagemend.demo/1";

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) schema: &'static str,
    pub(super) version: &'static str,
    pub(super) proven: bool,
    pub(super) proof: Vec<Check>,
    pub(super) memory: String,
    pub(super) pages: &'static str,
    pub(super) memory_bytes: u64,
    pub(super) page_size: PageSize,
    pub(super) passed_over: Vec<PassedOver>,
    pub(super) threads: u64,
    pub(super) seed: u64,
    pub(super) policy: Policy,
    pub(super) inject: &'static str,
    pub(super) injected_frames: u64,
    pub(super) injected: Vec<Gpa>,
    pub(super) wrong_values: u64,
    pub(super) values_checked: u64,
    pub(super) passes: u64,
    pub(super) lost_bytes: u64,
    pub(super) lost: Vec<GpaRange>,
    pub(super) recovered_bytes: u64,
    pub(super) kernel_default: KernelDefault,
    pub(super) mend_micros: Option<MendMicros>,
    pub(super) segments: Vec<Piece>,
    pub(super) timeline: Vec<Treated>,
    pub(super) elapsed_micros: f64,
}

/// One thing that has to hold.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) claim: String,
    pub(super) holds: bool,
    /// What was found instead.
    pub(super) found: Option<String>,
}

/// A piece of guest memory as it is at the end.
#[derive(Debug, Serialize)]
pub(super) struct Piece {
    #[serde(flatten)]
    pub(super) gpa: GpaRange,
    pub(super) page_size: PageSize,
    pub(super) backing: Backing,
}

/// What an error takes away at most: what the kernel does.
pub(super) fn unit_of_loss(outcome: &Outcome) -> PageSize {
    let segment = outcome.before.first();
    segment.map_or(PageSize::SIZE_4K, |segment| {
        segment.backing.unit_of_loss(segment.page_size)
    })
}

impl Report {
    pub(super) fn new(
        settings: &Settings,
        (pages, memory_bytes): (Pages, u64),
        passed_over: Vec<PassedOver>,
        outcome: Outcome,
        kernel_default: KernelDefault,
    ) -> Self {
        let proof = proof(settings.policy, &outcome);
        let timeline = timeline(&outcome);
        let lost = runs(&outcome.ledger);
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            proven: proof.iter().all(|check| check.holds),
            proof,
            memory: pages.kind().to_string(),
            pages: pages.name(),
            memory_bytes,
            page_size: pages.kind().page_size(),
            passed_over,
            threads: settings.threads,
            seed: settings.seed,
            policy: settings.policy,
            inject: settings.inject.name(),
            injected_frames: outcome.injected.len() as u64,
            injected: outcome.injected.iter().copied().collect(),
            wrong_values: outcome.witness.wrong_values,
            values_checked: outcome.witness.values_checked,
            passes: outcome.witness.passes,
            lost_bytes: lost.iter().map(GpaRange::len).sum(),
            lost,
            recovered_bytes: outcome.totals.recovered_bytes,
            kernel_default,
            mend_micros: mend_micros(&timeline),
            segments: outcome.after.iter().map(Piece::of).collect(),
            timeline,
            elapsed_micros: outcome.elapsed.as_nanos() as f64 / 1000.0,
        }
    }
}

impl Piece {
    fn of(segment: &Segment) -> Self {
        Self {
            gpa: segment.gpa,
            page_size: segment.page_size,
            backing: segment.backing,
        }
    }
}

/// Holds what the workers have seen against what was done to them.
fn proof(policy: Policy, outcome: &Outcome) -> Vec<Check> {
    let whole_pages = matches!(policy, Policy::Discard | Policy::Abandon);
    let unit = match whole_pages {
        true => unit_of_loss(outcome),
        false => PageSize::SIZE_4K,
    };
    let expected: BTreeSet<Gpa> = outcome
        .injected
        .iter()
        .map(|gpa| gpa.align_down(unit))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .flat_map(|page| GpaRange::page(page, unit).frames())
        .collect();
    let what = match unit.is_huge() {
        true => format!(
            "the whole pages of the {} injected frames",
            outcome.injected.len()
        ),
        false => format!("the {} injected frames", outcome.injected.len()),
    };
    let wrong = outcome.witness.wrong_values;
    vec![
        Check {
            claim: "no value that a worker read was wrong".to_owned(),
            holds: wrong == 0,
            found: (wrong > 0).then(|| format!("{wrong} wrong values")),
        },
        Check::same(
            format!("the workers lost exactly {what}"),
            &expected,
            &outcome.witness.lost,
        ),
        Check::same(
            format!("the ledger has exactly {what}"),
            &expected,
            &outcome.ledger,
        ),
    ]
}

impl Check {
    fn same(claim: String, expected: &BTreeSet<Gpa>, found: &BTreeSet<Gpa>) -> Self {
        let missing = expected.difference(found).count();
        let more = found.difference(expected).count();
        let holds = missing == 0 && more == 0;
        Self {
            claim,
            holds,
            found: (!holds)
                .then(|| format!("{missing} of them are missing, and {more} are others")),
        }
    }
}

/// The frames as maximal ranges.
fn runs(frames: &BTreeSet<Gpa>) -> Vec<GpaRange> {
    let frames: Vec<Gpa> = frames.iter().copied().collect();
    frames
        .chunk_by(|a, b| a.get() + FRAME_SIZE == b.get())
        .filter_map(|run| GpaRange::new(run[0], run.len() as u64 * FRAME_SIZE))
        .collect()
}
