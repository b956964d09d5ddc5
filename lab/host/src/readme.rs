//! The README's table of what becomes of a guest: a few rows of `docs/vm-outcomes.md`, written with it from the same results.

use crate::outcomes::Outcome;
use anyhow::{Context, Result};
use std::fmt::Write;

/// What the table stands between.
pub(crate) const BEGIN: &str = "<!-- Written by `cargo xtask lab 'vm-*' --table`; do not edit. -->";
pub(crate) const END: &str = "<!-- The end of what is written. -->";

/// Its rows: a family of scenarios, a machine, and what is said of the errors.
const ROWS: [(&str, &str, &str); 8] = [
    ("found", "2m-amd-1", "found"),
    ("touched", "2m-amd-4", "touched"),
    ("found", "1g-amd-4", "found"),
    ("once-16", "2m-amd-1", "at once"),
    ("once-128", "2m-amd-1", "at once"),
    ("once-128", "2m-amd-4", "at once"),
    ("found", "4k-amd-1", "found"),
    ("text", "2m-amd-1", "in its kernel's text"),
];

/// The README with the table of these outcomes instead of the one that it has.
pub(crate) fn with_table(readme: &str, release: &str, outcomes: &[Outcome]) -> Result<String> {
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| {
        let (_, after) = rest.split_once(END)?;
        Some((before, after))
    });
    let (before, after) = parts.context("the README has no place for its table")?;
    Ok(format!(
        "{before}{BEGIN}\n\n{}\nSeen with {release} as the host's kernel and the guest's.\n\n{END}{after}",
        table(outcomes)
    ))
}

fn table(outcomes: &[Outcome]) -> String {
    let theirs = outcomes.iter().find(|outcome| outcome.vmm == "qemu");
    let theirs = theirs.map_or("QEMU", |outcome| outcome.version.as_str());
    let mut text =
        format!("| guest memory | errors | under pagemend | under {theirs} |\n|---|---|---|---|\n");
    for (family, machine, how) in ROWS {
        let under = |vmm| {
            let mut rows = outcomes.iter().filter(|outcome| outcome.vmm == vmm);
            rows.find(|outcome| (outcome.family, outcome.machine) == (family, machine))
        };
        let Some(ours) = under("pagemend") else {
            continue;
        };
        let (errors, memory) = (&ours.errors, memory(machine));
        let (ours, theirs) = (became(ours, errors), under("qemu"));
        let theirs = theirs.map_or_else(|| "not tried".to_owned(), |theirs| became(theirs, errors));
        let _ = writeln!(text, "| {memory} | {errors}, {how} | {ours} | {theirs} |");
    }
    text
}

/// A machine's memory, and its vCPUs if it has several.
fn memory(machine: &str) -> String {
    let words: Vec<&str> = machine.split('-').collect();
    let pages = match words[0] {
        "2m" => "2 MiB",
        "1g" => "1 GiB",
        "4k" => "4 KiB",
        other => other,
    };
    match words.last() {
        Some(&"1") | None => format!("{pages} pages"),
        Some(vcpus) => format!("{pages} pages, {vcpus} vCPUs"),
    }
}

/// What became of a guest that was to have so many errors. One that died had no more after that.
fn became(outcome: &Outcome, errors: &str) -> String {
    match outcome.guest {
        "lives" => format!("lives; {} lost", outcome.lost),
        "dies" if outcome.errors != errors => {
            format!("dies at error {} of {errors}", outcome.errors)
        }
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcomes::tests::report;
    use serde_json::json;

    #[test]
    fn the_readme_has_a_place_for_the_table() {
        assert!(with_table(include_str!("../../../README.md"), "6.12", &[]).is_ok());
        assert!(with_table("no table", "6.12", &[]).is_err());
    }

    #[test]
    fn the_table_is_condensed_from_the_outcomes() {
        let seen = |vmm: &str, errors: u64, alive: bool, lost: u64| {
            [
                ("vmm", json!(vmm)),
                ("errors", json!(errors)),
                ("guest_alive", json!(alive)),
                ("lost_bytes", json!(lost)),
            ]
        };
        let reports = [
            report(
                "vm-found/2m-amd-1/pagemend",
                &seen("pagemend 1", 4, true, 8192),
            ),
            report(
                "vm-found/2m-amd-1/qemu",
                &seen("QEMU 7", 1, false, 512 << 20),
            ),
            report(
                "vm-once-16/2m-amd-1/pagemend",
                &seen("pagemend 1", 16, true, 65536),
            ),
            report(
                "vm-once-16/2m-amd-1/qemu",
                &seen("QEMU 7", 16, false, 512 << 20),
            ),
            report(
                "vm-once-128/2m-amd-4/pagemend",
                &seen("pagemend 1", 128, true, 0),
            ),
            report(
                "vm-told/2m-intel-4/pagemend",
                &seen("pagemend 1", 4, true, 0),
            ),
        ];
        let outcomes: Vec<_> = reports.iter().filter_map(Outcome::of).collect();
        let readme = format!("before\n{BEGIN}\nan older one\n{END}\nafter\n");
        let expected = format!(
            "before\n{BEGIN}\n\n\
             | guest memory | errors | under pagemend | under QEMU 7 |\n|---|---|---|---|\n\
             | 2 MiB pages | 4, found | lives; 8 KiB lost | dies at error 1 of 4 |\n\
             | 2 MiB pages | 16, at once | lives; 64 KiB lost | dies |\n\
             | 2 MiB pages, 4 vCPUs | 128, at once | lives; 0 lost | not tried |\n\
             \nSeen with 6.12 as the host's kernel and the guest's.\n\n{END}\nafter\n"
        );
        assert_eq!(with_table(&readme, "6.12", &outcomes).unwrap(), expected);
    }
}
