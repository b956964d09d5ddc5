//! `pagemend doctor`, because whether a host can mend is better known before an error than after.

mod text;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use pagemend::probe::{Finding, Host, Verdict, findings};
use serde::Serialize;

use crate::layout;

/// The name and version of the `--json` form, which docs/doctor.md describes.
const SCHEMA: &str = "pagemend.doctor/1";

/// Says what this host can do for memory-failure recovery, and what to change.
///
/// Exits with 0 when a mend is possible in some form, with 1 when not, and with 2 when the question
/// could not be answered.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print JSON (schema pagemend.doctor/1) instead of text.
    #[arg(long)]
    json: bool,
}

/// All that doctor has to say.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    verdict: Verdict,
    findings: Vec<Finding>,
    facts: Host,
}

impl Report {
    fn on(facts: Host) -> Self {
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            verdict: Verdict::of(&facts),
            findings: findings(&facts),
            facts,
        }
    }
}

impl Doctor {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        let report = Report::on(Host::read());
        let mut out = anstream::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        } else {
            text::write(&mut out, &report, layout::width())?;
        }
        out.flush()?;
        Ok(exit_code(&report.verdict))
    }
}

fn exit_code(verdict: &Verdict) -> ExitCode {
    if verdict.can_mend {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_whether_a_mend_is_possible() {
        let verdict = |can_mend| Verdict {
            can_mend,
            forms: Vec::new(),
        };
        assert_eq!(exit_code(&verdict(true)), ExitCode::from(0));
        assert_eq!(exit_code(&verdict(false)), ExitCode::from(1));
    }
}
