//! The document on what becomes of virtual machines: the `vm-*` scenarios of a run as one table, VMM beside VMM. It holds nothing that changes from run to run.

use anyhow::{Context, Result};
use pagemend_lab_protocol::{Report, ScenarioInfo, Verdict};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// What their names begin with.
const FAMILY: &str = "vm-";

/// Writes `vm-outcomes.md` into a directory, if the run has every scenario about virtual machines.
///
/// # Errors
/// The file cannot be written.
pub fn write_outcomes(
    directory: &Path,
    scenarios: &[ScenarioInfo],
    reports: &[Report],
) -> Result<Option<PathBuf>> {
    let ours = |name: &str| name.starts_with(FAMILY);
    let reports: Vec<_> = reports.iter().filter(|report| ours(&report.name)).collect();
    let run = |scenario: &ScenarioInfo| reports.iter().any(|report| report.name == scenario.name);
    let mut wanted = scenarios.iter().filter(|scenario| ours(&scenario.name));
    if reports.is_empty() || !wanted.all(run) {
        return Ok(None);
    }
    let path = directory.join("vm-outcomes.md");
    fs::write(&path, document(&reports))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(path))
}

fn document(reports: &[&Report]) -> String {
    let release = reports.first().map_or("", |report| report.kernel.as_str());
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
    let mut families: BTreeMap<&str, Vec<(&str, &str, &Report)>> = BTreeMap::new();
    for report in reports {
        let words: Vec<&str> = report.name.split('/').collect();
        if let [family, machine, vmm] = words.as_slice() {
            let family = family.trim_start_matches(FAMILY);
            families
                .entry(family)
                .or_default()
                .push((machine, vmm, report));
        }
    }
    for (family, rows) in families {
        let _ = write!(
            text,
            "\n## {family}\n\n| | VMM | errors | guest | lost | healthy | known |\n|---|---|---|---|---|---|---|\n"
        );
        for (machine, vmm, report) in rows {
            row(&mut text, machine, vmm, report);
        }
    }
    text
}

fn row(text: &mut String, machine: &str, vmm: &str, report: &Report) {
    let measured = |name| report.measured(name).unwrap_or_default();
    let vmm = report.measured("vmm").unwrap_or_else(|| vmm.to_owned());
    let guest = match (report.verdict, measured("guest_alive").as_str()) {
        (Verdict::Skip, _) => "not run",
        (_, "true") => "lives",
        (_, "false") => "**dies**",
        _ => "?",
    };
    let _ = writeln!(
        text,
        "| {machine} | {vmm} | {} | {guest} | {} | {} | {} |",
        measured("errors"),
        bytes(&measured("lost_bytes")),
        bytes(&measured("healthy_bytes_lost")),
        match measured("guest_hardware_corrupted_kb").as_str() {
            "null" | "" => String::new(),
            kib => format!("{kib} KiB"),
        }
    );
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
mod tests {
    use super::*;
    use pagemend_lab_protocol::{Measurement, Needs, Set};
    use serde_json::{Value, json};

    fn report(name: &str, seen: &[(&str, Value)]) -> Report {
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
        let text = document(&[&a, &b]);
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
        let write =
            |reports: &[Report]| write_outcomes(directory.path(), &scenarios, reports).unwrap();
        assert_eq!(write(std::slice::from_ref(&a)), None);
        assert!(write(&[a, b]).is_some_and(|path| path.is_file()));
    }
}
