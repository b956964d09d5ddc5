//! Whether kernels still do what their documents say: what a run saw against `kernel-behaviour-VERSION.md`, cell by cell. The document holds nothing that changes from run to run, so each difference is a kernel's or the lab's.

use crate::table::{by_series, document, path_of};
use anyhow::{Context, Result};
use pagemend_lab_protocol::{Report, ScenarioInfo, Set, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Where the kernels of a run that has the default set's `kernel/*` do something else than their documents in a directory say. A kernel without a document has none.
///
/// # Errors
/// A document cannot be read.
pub fn differences(
    directory: &Path,
    scenarios: &[ScenarioInfo],
    reports: &[Report],
) -> Result<Vec<String>> {
    let about_kernels = |name: &str| name.starts_with("kernel/");
    let wanted =
        |scenario: &&ScenarioInfo| scenario.set == Set::Default && about_kernels(&scenario.name);
    let mut found = Vec::new();
    for (series, reports) in by_series(reports) {
        let path = path_of(directory, &series);
        let ran = |scenario: &ScenarioInfo| reports.iter().any(|r| r.name == scenario.name);
        if !path.is_file() || !scenarios.iter().filter(wanted).all(ran) {
            continue;
        }
        let said =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // One that failed has said so, and may not have come to its end.
        let whole =
            |report: &&Report| about_kernels(&report.name) && report.verdict == Verdict::Pass;
        let whole: Vec<&Report> = reports.into_iter().filter(whole).collect();
        let news = compare(&said, &document(&series, &[], &whole));
        found.extend(news.iter().map(|new| format!("{}: {new}", path.display())));
    }
    Ok(found)
}

/// Section, column and row.
type Place<'a> = (&'a str, &'a str, &'a str);

/// Where the columns that were seen differ from what is said of them.
fn compare(said: &str, seen: &str) -> Vec<String> {
    let (said, seen) = (cells(said), cells(seen));
    let columns: BTreeSet<_> = seen.keys().map(|place| (place.0, place.1)).collect();
    let places: BTreeSet<_> = said.keys().chain(seen.keys()).collect();
    places
        .into_iter()
        .filter(|place| columns.contains(&(place.0, place.1)))
        .filter(|place| said.get(*place) != seen.get(*place))
        .map(|place| {
            let (section, column, row) = place;
            let value = |cells: &BTreeMap<Place<'_>, &str>| {
                cells.get(place).map_or("nothing", |cell| cell).to_owned()
            };
            let (said, seen) = (value(&said), value(&seen));
            format!("kernel/{section}/{column}: {row}: {seen}, where it says {said}")
        })
        .collect()
}

/// What stands in the tables of a document that have a heading, without what is empty.
fn cells(document: &str) -> BTreeMap<Place<'_>, &str> {
    let mut cells = BTreeMap::new();
    for section in document.split("\n## ").skip(1) {
        let mut lines = section.lines();
        let name = lines.next().unwrap_or_default();
        let mut rows = lines.filter_map(|line| {
            let line = line.strip_prefix('|')?.strip_suffix('|')?;
            Some(line.split('|').map(str::trim))
        });
        let columns: Vec<&str> = rows.next().into_iter().flatten().skip(1).collect();
        // The line between the head and the rows is none of them.
        for mut row in rows.skip(1) {
            let title = row.next().unwrap_or_default();
            let filled = columns.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
            cells.extend(filled.map(|(column, cell)| ((name, *column, title), cell)));
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "# Linux\n\n| | how |\n|---|---|\n| early | so |\n\n\
        ## shmem\n\n| | early | late |\n|---|---|---|\n| told | AO |  |\n| touch | AR | AR |\n\n\
        ## What a mend relies on\n\n| | |\n|---|---|\n| a mark stays | yes |\n";

    #[test]
    fn a_run_that_sees_what_is_said_differs_in_nothing() {
        assert_eq!(compare(SAID, SAID), [""; 0]);
        let late = "\n## shmem\n\n| | late |\n|---|---|\n| touch | AR |\n";
        assert_eq!(compare(SAID, late), [""; 0]);
    }

    #[test]
    fn what_changed_is_missing_or_is_new_is_a_difference() {
        let early = "\n## shmem\n\n| | early |\n|---|---|\n| touch | data |\n| pool | +0 |\n";
        assert_eq!(
            compare(SAID, early),
            [
                "kernel/shmem/early: pool: +0, where it says nothing",
                "kernel/shmem/early: told: nothing, where it says AO",
                "kernel/shmem/early: touch: data, where it says AR",
            ]
        );
    }
}
