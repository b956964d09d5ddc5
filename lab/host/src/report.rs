//! What the lab says: a line a scenario while it runs, a summary, a file for machines.

use crate::comparison::comparison;
use crate::families::families;
use crate::repeats::repeats;
use anyhow::{Context, Result};
use pagemend_lab_protocol::{Report, Verdict};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// One line, on the standard error stream.
pub(crate) fn progress(report: &Report) {
    eprintln!("{}", line(report));
}

fn line(report: &Report) -> String {
    let verdict = match report.verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Skip => "skip",
    };
    let reason = report.reason.as_deref().unwrap_or_default();
    format!(
        "{verdict}  {:6.1} s  {}  {reason}",
        report.seconds, report.name
    )
    .trim_end()
    .to_owned()
}

/// Everything known of a report, as indented lines.
pub(crate) fn details(report: &Report) -> String {
    let mut text = String::new();
    for step in &report.steps {
        let _ = writeln!(text, "    step: {step}");
    }
    for seen in &report.measurements {
        let _ = writeln!(text, "    saw: {} = {}", seen.name, seen.value);
    }
    for assertion in &report.assertions {
        let holds = if assertion.holds { "so" } else { "NOT SO" };
        let found = assertion.found.as_deref().unwrap_or_default();
        let _ = writeln!(text, "    {holds}: {}: {found}", assertion.claim);
    }
    for said in &report.kernel_log {
        let _ = writeln!(text, "    kernel: {said}");
    }
    text
}

/// The summary of a run, with everything known of each failure, what became of virtual machines and of each family, and what took more than one try.
#[must_use]
pub fn summary(reports: &[Report]) -> String {
    let mut text = String::new();
    for report in reports.iter().filter(|r| r.verdict == Verdict::Fail) {
        let _ = writeln!(text, "\n{} on {}", line(report), report.kernel);
        text.push_str(&details(report));
    }
    for part in [comparison(reports), families(reports), repeats(reports)] {
        if !part.is_empty() {
            let _ = writeln!(text, "\n{}", part.trim_end());
        }
    }
    let count = |verdict| reports.iter().filter(|r| r.verdict == verdict).count();
    let _ = write!(
        text,
        "\n{} passed, {} failed, {} skipped",
        count(Verdict::Pass),
        count(Verdict::Fail),
        count(Verdict::Skip)
    );
    text
}

/// Whether any scenario failed.
#[must_use]
pub fn failed(reports: &[Report]) -> bool {
    reports.iter().any(|r| r.verdict == Verdict::Fail)
}

/// Writes the reports as a JSON list.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(path: &Path, reports: &[Report]) -> Result<()> {
    let text = serde_json::to_string_pretty(reports).context("cannot encode the reports")?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}
