//! The document on what becomes of virtual machines: the `vm-*` scenarios of a run as one table, VMM beside VMM. It holds no times and no counts of work; what may still differ from run to run is in docs/lab.md.

use crate::readme;
use anyhow::{Context, Result};
use pagemend_lab_protocol::{Report, ScenarioInfo, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// What their names begin with.
const FAMILY: &str = "vm-";

/// Writes `docs/vm-outcomes.md` and the README's table into a workspace, if the run has every scenario about virtual machines.
///
/// # Errors
/// A file cannot be read or written, or the README has no place for the table.
pub fn write_outcomes(
    workspace: &Path,
    scenarios: &[ScenarioInfo],
    reports: &[Report],
) -> Result<Vec<PathBuf>> {
    let ours = |name: &str| name.starts_with(FAMILY);
    let reports: Vec<_> = reports.iter().filter(|report| ours(&report.name)).collect();
    let run = |scenario: &ScenarioInfo| reports.iter().any(|report| report.name == scenario.name);
    let mut wanted = scenarios.iter().filter(|scenario| ours(&scenario.name));
    if reports.is_empty() || !wanted.all(run) {
        return Ok(Vec::new());
    }
    let release = reports.first().map_or("", |report| report.kernel.as_str());
    let outcomes: Vec<_> = reports.iter().filter_map(|r| Outcome::of(r)).collect();
    let document = document(release, &outcomes);
    let (path, readme) = (
        workspace.join("docs/vm-outcomes.md"),
        workspace.join("README.md"),
    );
    let text =
        fs::read_to_string(&readme).with_context(|| format!("cannot read {}", readme.display()))?;
    let condensed = readme::with_table(&text, release, &outcomes)?;
    for (path, text) in [(&path, document), (&readme, condensed)] {
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(vec![path, readme])
}

/// What became of one machine under one VMM.
pub(crate) struct Outcome<'a> {
    pub(crate) family: &'a str,
    /// Memory, processor and number of vCPUs.
    pub(crate) machine: &'a str,
    /// The VMM, as scenarios' names have it.
    pub(crate) vmm: &'a str,
    /// What it calls itself.
    pub(crate) version: String,
    pub(crate) errors: String,
    pub(crate) guest: &'static str,
    pub(crate) lost: String,
    pub(crate) healthy: String,
    known: String,
}

impl<'a> Outcome<'a> {
    /// That of a report, if it is about a virtual machine.
    pub(crate) fn of(report: &'a Report) -> Option<Self> {
        let words: Vec<&str> = report.name.strip_prefix(FAMILY)?.split('/').collect();
        let [family, machine, vmm] = words[..] else {
            return None;
        };
        let measured = |name| report.measured(name).unwrap_or_default();
        Some(Self {
            family,
            machine,
            vmm,
            version: report.measured("vmm").unwrap_or_else(|| vmm.to_owned()),
            errors: measured("errors"),
            guest: match (report.verdict, measured("guest_alive").as_str()) {
                (Verdict::Skip, _) => "not run",
                (_, "true") => "lives",
                (_, "false") => "dies",
                _ => "?",
            },
            lost: bytes(&measured("lost_bytes")),
            healthy: bytes(&measured("healthy_bytes_lost")),
            known: match measured("guest_hardware_corrupted_kb").as_str() {
                "null" | "" => String::new(),
                kib => format!("{kib} KiB"),
            },
        })
    }
}

fn document(release: &str, outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "# What becomes of a virtual machine when its memory fails\n\n\
         Seen with {release} as the host's kernel and the guest's. Written by `cargo xtask lab 'vm-*' --table`; do not edit.\n\n\
         A stock Linux guest runs one program that owns most of its memory and checks and writes every word of it, over and over. \
         The same errors hit it under each VMM, in memory of the same kind; each error is 4 KiB. \
         *Lost* is what the guest can never read again, *healthy* the part of that which had not failed. \
         A guest that dies has lost all of its memory, though it may have started again since. \
         *Known* is what the guest's kernel counts as failed (`HardwareCorrupted`). \
         Names are memory, processor and number of vCPUs.\n"
    );
    let mut families: BTreeMap<&str, Vec<&Outcome>> = BTreeMap::new();
    for outcome in outcomes {
        families.entry(outcome.family).or_default().push(outcome);
    }
    for (family, rows) in families {
        let _ = write!(
            text,
            "\n## {family}\n\n| | VMM | errors | guest | lost | healthy | known |\n|---|---|---|---|---|---|---|\n"
        );
        for row in rows {
            let Outcome {
                machine,
                version,
                errors,
                lost,
                healthy,
                known,
                ..
            } = row;
            let guest = if row.guest == "dies" {
                "**dies**"
            } else {
                row.guest
            };
            let _ = writeln!(
                text,
                "| {machine} | {version} | {errors} | {guest} | {lost} | {healthy} | {known} |"
            );
        }
    }
    text
}

/// A number of bytes, in the largest unit that leaves nothing over.
fn bytes(number: &str) -> String {
    let Ok(bytes) = number.parse::<u64>() else {
        return String::new();
    };
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = units
        .iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    fits.map_or_else(
        || bytes.to_string(),
        |(shift, unit)| format!("{} {unit}", bytes >> shift),
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pagemend_lab_protocol::{Measurement, Needs, Set};
    use serde_json::{Value, json};

    pub(crate) fn report(name: &str, seen: &[(&str, Value)]) -> Report {
        let measurement = |(name, value): &(&str, Value)| Measurement {
            name: (*name).into(),
            value: value.clone(),
        };
        Report {
            name: name.into(),
            kernel: "6.12.117+deb12-amd64".into(),
            arch: "x86_64".into(),
            verdict: Verdict::Pass,
            reason: None,
            seconds: 1.0,
            measurements: seen.iter().map(measurement).collect(),
            assertions: Vec::new(),
            steps: Vec::new(),
            kernel_log: Vec::new(),
        }
    }

    fn scenario(name: &str) -> ScenarioInfo {
        ScenarioInfo {
            name: name.into(),
            proves: String::new(),
            needs: Needs::NOTHING,
            set: Set::All,
        }
    }

    #[test]
    fn vmms_stand_beside_each_other() {
        let ours = [
            ("vmm", json!("pagemend 0.1.0")),
            ("errors", json!(2)),
            ("guest_alive", json!(true)),
            ("lost_bytes", json!(8192)),
            ("healthy_bytes_lost", json!(0)),
            ("guest_hardware_corrupted_kb", json!(8)),
        ];
        let theirs = [
            ("vmm", json!("QEMU 7.2.22")),
            ("errors", json!(1)),
            ("guest_alive", json!(false)),
            ("lost_bytes", json!(512 << 20)),
            ("healthy_bytes_lost", json!((512 << 20) - 4096)),
            ("guest_hardware_corrupted_kb", Value::Null),
        ];
        let (a, b) = (
            report("vm-found/2m/a", &ours),
            report("vm-found/2m/b", &theirs),
        );
        let outcomes = [&a, &b].map(|report| Outcome::of(report).unwrap());
        let text = document(&a.kernel, &outcomes);
        assert!(text.contains(
            "| 2m | pagemend 0.1.0 | 2 | lives | 8 KiB | 0 | 8 KiB |\n\
             | 2m | QEMU 7.2.22 | 1 | **dies** | 512 MiB | 524284 KiB |  |\n"
        ));
    }

    #[test]
    fn half_a_run_writes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let scenarios = [
            scenario("vm-a/x/y"),
            scenario("vm-b/x/y"),
            scenario("kernel/x"),
        ];
        let (a, b) = (report("vm-a/x/y", &[]), report("vm-b/x/y", &[]));
        let readme = directory.path().join("README.md");
        fs::create_dir(directory.path().join("docs")).unwrap();
        fs::write(&readme, format!("{}\n{}\n", readme::BEGIN, readme::END)).unwrap();
        let write =
            |reports: &[Report]| write_outcomes(directory.path(), &scenarios, reports).unwrap();
        assert!(write(std::slice::from_ref(&a)).is_empty());
        let written = write(&[a, b]);
        assert_eq!(
            written,
            [directory.path().join("docs/vm-outcomes.md"), readme]
        );
    }
}
