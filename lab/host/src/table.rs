//! The document on what a kernel does: the `kernel/*` scenarios of a run as tables, one for each kind of memory, and what its `mechanism/*` prove. It holds nothing that changes from run to run, so that a difference between two kernels, or between two runs, shows as a difference of the files.

use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::{Report, ScenarioInfo, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// What writes the document, and nothing less does.
const COMMAND: &str = "`cargo xtask lab 'kernel/*' 'mechanism/*' --table`";

/// What the document is made of.
const FAMILIES: [&str; 2] = ["kernel/", "mechanism/"];

/// Writes `kernel-behaviour-VERSION.md` into a directory for each kernel of a run that was about kernels, and gives the files.
///
/// # Errors
/// Not every scenario that belongs into it ran and passed, or a file cannot be written.
pub fn write_tables(
    directory: &Path,
    scenarios: &[ScenarioInfo],
    reports: &[Report],
) -> Result<Vec<PathBuf>> {
    let ours = |name: &str| FAMILIES.iter().any(|family| name.starts_with(family));
    let reports = reports.iter().filter(|report| ours(&report.name));
    let by_series = by_series(reports);
    for (series, reports) in &by_series {
        let passed = |name: &str| {
            let passes = |report: &&Report| report.name == name && report.verdict == Verdict::Pass;
            reports.iter().any(passes)
        };
        let lacking: Vec<&str> = scenarios
            .iter()
            .map(|scenario| scenario.name.as_str())
            .filter(|name| ours(name) && !passed(name))
            .collect();
        if let [first, rest @ ..] = lacking.as_slice() {
            bail!(
                "the document on Linux {series} is not written: {first} and {} more did not run or did not pass; it takes {COMMAND}",
                rest.len(),
            );
        }
    }
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let mut paths = Vec::new();
    for (series, reports) in by_series {
        let path = path_of(directory, &series);
        fs::write(&path, document(&series, scenarios, &reports))
            .with_context(|| format!("cannot write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

/// The reports on each series of kernels, such as `6.12`. A machine that never came up has named none.
pub(crate) fn by_series<'a>(
    reports: impl IntoIterator<Item = &'a Report>,
) -> BTreeMap<String, Vec<&'a Report>> {
    let mut by_series: BTreeMap<String, Vec<&Report>> = BTreeMap::new();
    for report in reports {
        let series = series(&report.kernel);
        by_series.entry(series).or_default().push(report);
    }
    by_series
}

/// Where the document on a series is.
pub(crate) fn path_of(directory: &Path, series: &str) -> PathBuf {
    directory.join(format!("kernel-behaviour-{series}.md"))
}

/// `6.12` of `6.12.117+deb12-amd64`.
fn series(release: &str) -> String {
    let mut numbers = release.split('.');
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => format!("{major}.{minor}"),
        _ => release.to_owned(),
    }
}

pub(crate) fn document(series: &str, scenarios: &[ScenarioInfo], reports: &[&Report]) -> String {
    let release = reports.first().map_or("", |report| report.kernel.as_str());
    let mut text = format!(
        "# What Linux {series} does when memory fails\n\n\
         Seen on {release}. Written by `cargo xtask lab --kernel {series} 'kernel/*' 'mechanism/*' --table`; do not edit.\n\n\
         Memory is filled, broken at one 4 KiB in its middle, and looked at: by the process itself, through another mapping of the same file, and by another process. \
         \"AR\" and \"AO\" are the signals `BUS_MCEERR_AR` and `BUS_MCEERR_AO` with their `si_addr_lsb`. \
         Pages and KiB are changes since before the first error. \
         Emulated memory keeps its bytes: where the kernel leaves a bad page mapped, a touch gives data here and a machine check on a real machine.\n\n\
         | | how memory breaks |\n|---|---|\n\
         | early | the module hwpoison-inject, as a scrubber would find it; a thread of each process has asked for early kill |\n\
         | late | the same; nobody has asked |\n\
         | load | a machine check with action required, in a thread that is reading the place |\n\
         | madvise | `MADV_HWPOISON` |\n\
         | scrubber | a machine check with action optional; a thread of each process has asked for early kill |\n\
         | soft-offline | `MADV_SOFT_OFFLINE`: corrected errors were too many |\n"
    );
    let mut backings: BTreeMap<&str, Vec<(&str, &Report)>> = BTreeMap::new();
    for report in reports {
        let words: Vec<&str> = report.name.split('/').collect();
        if let ["kernel", backing, injection] = words.as_slice() {
            backings
                .entry(backing)
                .or_default()
                .push((injection, report));
        }
    }
    for (backing, columns) in &backings {
        table(&mut text, backing, columns);
    }
    mechanisms(&mut text, scenarios, reports);
    text
}

fn table(text: &mut String, backing: &str, columns: &[(&str, &Report)]) {
    let _ = write!(text, "\n## {backing}\n\n|");
    for (injection, _) in columns {
        let _ = write!(text, " | {injection}");
    }
    let _ = writeln!(text, " |\n|---{}|", "|---".repeat(columns.len()));
    let mut rows: Vec<&str> = Vec::new();
    for (_, report) in columns {
        let mut place = 0;
        for seen in &report.measurements {
            // A row that other columns lack goes after the one before it.
            match rows.iter().position(|row| *row == seen.name) {
                Some(found) => place = found + 1,
                None => {
                    rows.insert(place, &seen.name);
                    place += 1;
                }
            }
        }
    }
    for row in rows {
        let _ = write!(text, "| {row}");
        for (_, report) in columns {
            let cell = report.measured(row).unwrap_or_default();
            let _ = write!(text, " | {cell}");
        }
        text.push_str(" |\n");
    }
}

/// The scenarios that prove a sentence each; a document with one that does not is not written.
fn mechanisms(text: &mut String, scenarios: &[ScenarioInfo], reports: &[&Report]) {
    let others: Vec<_> = reports
        .iter()
        .filter(|report| report.name.starts_with("mechanism/"))
        .collect();
    if others.is_empty() {
        return;
    }
    text.push_str("\n## What a mend relies on\n\n| | |\n|---|---|\n");
    for report in others {
        let proves = scenarios
            .iter()
            .find(|scenario| scenario.name == report.name)
            .map_or(report.name.as_str(), |scenario| scenario.proves.as_str());
        let _ = writeln!(text, "| {proves} | yes |");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagemend_lab_protocol::{Measurement, Needs, Set};

    fn report(name: &str, seen: &[(&str, &str)]) -> Report {
        Report {
            name: name.into(),
            kernel: "6.12.117+deb12-amd64".into(),
            arch: "x86_64".into(),
            verdict: Verdict::Pass,
            reason: None,
            seconds: 1.0,
            measurements: seen
                .iter()
                .map(|(name, value)| Measurement {
                    name: (*name).into(),
                    value: (*value).into(),
                })
                .collect(),
            assertions: Vec::new(),
            steps: Vec::new(),
            kernel_log: Vec::new(),
        }
    }

    #[test]
    fn ways_to_break_memory_are_columns_and_rows_keep_their_order() {
        let early = report("kernel/shmem/early", &[("told", "AO"), ("touch", "AR")]);
        let late = report("kernel/shmem/late", &[("touch", "AR"), ("pool", "+0")]);
        let text = document("6.12", &[], &[&early, &late]);
        let table = "| | early | late |\n|---|---|---|\n| told | AO |  |\n| touch | AR | AR |\n| pool |  | +0 |\n";
        assert!(text.contains(table), "{text}");
    }

    #[test]
    fn half_a_run_and_one_that_failed_or_skipped_write_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let scenario = |name: &str| ScenarioInfo {
            name: name.into(),
            proves: String::new(),
            needs: Needs::NOTHING,
            set: Set::All,
        };
        let scenarios = ["kernel/a/b", "mechanism/c", "vm-d/e"].map(scenario);
        let write = |reports: &[Report]| write_tables(directory.path(), &scenarios, reports);
        let [kernel, mechanism] = ["kernel/a/b", "mechanism/c"].map(|name| report(name, &[]));
        assert_eq!(
            write(&[report("vm-d/e", &[])]).unwrap(),
            [""; 0].map(PathBuf::from)
        );
        assert!(write(std::slice::from_ref(&kernel)).is_err());
        for verdict in [Verdict::Fail, Verdict::Skip] {
            let other = Report {
                verdict,
                ..mechanism.clone()
            };
            assert!(write(&[kernel.clone(), other]).is_err());
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        let written = write(&[kernel, mechanism]).unwrap();
        assert_eq!(written, [directory.path().join("kernel-behaviour-6.12.md")]);
        assert!(written[0].is_file());
    }
}
