//! A run at a glance: what became of each family of scenarios, and how long their machines were at it.

use pagemend_lab_protocol::{Report, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Default)]
struct Family {
    passed: usize,
    failed: usize,
    skipped: usize,
    seconds: f64,
}

/// The table, or nothing for a single scenario, which has been said already.
pub(crate) fn families(reports: &[Report]) -> String {
    if reports.len() < 2 {
        return String::new();
    }
    let mut families: BTreeMap<&str, Family> = BTreeMap::new();
    for report in reports {
        let family = families.entry(family(&report.name)).or_default();
        family.seconds += report.seconds;
        *match report.verdict {
            Verdict::Pass => &mut family.passed,
            Verdict::Fail => &mut family.failed,
            Verdict::Skip => &mut family.skipped,
        } += 1;
    }
    let width = families.keys().map(|name| name.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}  passed  failed  skipped  seconds\n", "");
    for (name, family) in families {
        let _ = writeln!(
            text,
            "{name:width$}  {:6}  {:6}  {:7}  {:7.0}",
            family.passed, family.failed, family.skipped, family.seconds
        );
    }
    text
}

/// `vm` of `vm-found/2m-amd-1/qemu`, `kernel` of `kernel/shmem/early`.
fn family(name: &str) -> &str {
    name.split(['/', '-']).next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcomes::tests::report;

    #[test]
    fn a_family_is_counted_whatever_its_scenarios_are_about() {
        let mut reports =
            ["kernel/shmem/early", "vm-found/2m", "vm-once-16/2m"].map(|name| report(name, &[]));
        reports[1].verdict = Verdict::Fail;
        reports[2].seconds = 61.6;
        assert_eq!(
            families(&reports),
            "        passed  failed  skipped  seconds\n\
             kernel       1       0        0        1\n\
             vm           1       1        0       63\n"
        );
        assert_eq!(families(&reports[..1]), "");
    }
}
