//! The lab tested by scenarios that are wrong on purpose: each must fail, for its own reason, without harm to the next.

use crate::options::Options;
use crate::run::{list, run};
use anyhow::{Result, bail};
use pagemend_lab_protocol::{Report, Set, Verdict};

/// What each of them must come to: the verdict, and words of its reason.
const EXPECTED: [(&str, Verdict, &str); 9] = [
    (
        "broken/claims-what-is-not-so",
        Verdict::Fail,
        "not so: one is two",
    ),
    ("broken/crashes-the-kernel", Verdict::Fail, "Kernel panic"),
    ("broken/dies", Verdict::Fail, "killed by signal 6"),
    (
        "broken/goes-away-without-a-word",
        Verdict::Fail,
        "without a verdict",
    ),
    ("broken/hangs", Verdict::Fail, "time limit"),
    (
        "broken/mender-does-not-mark",
        Verdict::Fail,
        "not so: words that were not what was written last; each of them met all that is lost, and nothing else; everything else reads as written",
    ),
    (
        "broken/mender-does-not-salvage",
        Verdict::Fail,
        "not so: words that were not what was written last",
    ),
    (
        "broken/mender-tells-the-wrong-frame",
        Verdict::Fail,
        "not so: words that were not what was written last; each of them met all that is lost, and nothing else; the ledger has what is lost; it is told once; everything else reads as written",
    ),
    ("broken/passes", Verdict::Pass, ""),
];

/// Runs them.
///
/// # Errors
/// One of them came to something else: then no verdict of the lab can be trusted.
pub fn self_test(options: &Options) -> Result<Vec<Report>> {
    let mut options = options.clone();
    options.names.clear();
    options.names = list(&options)?
        .into_iter()
        .filter(|scenario| scenario.set == Set::Broken)
        .map(|scenario| scenario.name)
        .collect();
    let reports = run(&options)?;
    for kernel in 0..options.kernels.len() {
        let found = &reports[kernel * EXPECTED.len()..][..EXPECTED.len()];
        for (report, (name, verdict, words)) in found.iter().zip(EXPECTED) {
            let reason = report.reason.as_deref().unwrap_or_default();
            if report.name != name || report.verdict != verdict || !reason.contains(words) {
                bail!(
                    "the lab is not to be trusted: {} came to {:?} ({reason}), not {verdict:?} ({words})",
                    report.name,
                    report.verdict,
                );
            }
        }
    }
    Ok(reports)
}
