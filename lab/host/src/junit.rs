//! The results in the form that build servers read: JUnit's XML, a suite for each kernel.

use anyhow::{Context, Result};
use pagemend_lab_protocol::{Report, Verdict};
use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Writes the reports as JUnit XML.
///
/// # Errors
/// The file cannot be written.
pub fn write_junit(path: &Path, reports: &[Report]) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(what)?;
    document(reports).serialize(file).with_context(what)
}

fn document(reports: &[Report]) -> quick_junit::Report {
    let mut document = quick_junit::Report::new("lab");
    let mut rest = reports;
    while let Some(first) = rest.first() {
        let length = rest.iter().take_while(|r| r.kernel == first.kernel).count();
        let (suite, behind) = rest.split_at(length);
        let mut cases = TestSuite::new(first.kernel.as_str());
        cases.add_test_cases(suite.iter().map(case));
        document.add_test_suite(cases);
        rest = behind;
    }
    document
}

fn case(report: &Report) -> TestCase {
    let reason = report.reason.as_deref().unwrap_or_default();
    let status = match report.verdict {
        Verdict::Pass => TestCaseStatus::success(),
        Verdict::Skip => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(reason);
            status
        }
        Verdict::Fail => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(reason);
            status.set_description(crate::report::details(report));
            status
        }
    };
    let mut case = TestCase::new(report.name.as_str(), status);
    case.set_time(Duration::from_secs_f64(report.seconds));
    case
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, kernel: &str, verdict: Verdict) -> Report {
        Report {
            name: name.into(),
            kernel: kernel.into(),
            arch: "x86_64".into(),
            verdict,
            reason: (verdict != Verdict::Pass).then(|| "2 < 3".into()),
            seconds: 1.5,
            measurements: Vec::new(),
            assertions: Vec::new(),
            steps: vec!["break it".into()],
            kernel_log: Vec::new(),
        }
    }

    #[test]
    fn each_kernel_is_a_suite_and_each_scenario_a_case_with_its_reason() {
        let reports = [
            report("a/b", "6.12", Verdict::Pass),
            report("a/c", "6.12", Verdict::Fail),
            report("a/c", "7.2", Verdict::Skip),
        ];
        let text = document(&reports).to_string().unwrap();
        assert_eq!(text.matches("<testsuite ").count(), 2, "{text}");
        assert_eq!(text.matches("<testcase ").count(), 3, "{text}");
        assert!(text.contains("<failure message=\"2 &lt; 3\""), "{text}");
        assert!(text.contains("step: break it"), "{text}");
        assert!(text.contains("<skipped message=\"2 &lt; 3\""), "{text}");
    }
}
