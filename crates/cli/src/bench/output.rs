//! What all benchmarks do with what they have measured.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::error::BenchError;
use super::machine::Machine;
use super::plot::Plot;
use crate::chain;
use crate::interrupt::INTERRUPTED;

/// The exit code where nothing could be measured.
const CANNOT: u8 = 2;

/// Where the results go.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// Print JSON instead of tables; docs/bench.md describes it.
    #[arg(long)]
    json: bool,
    /// Also write the JSON to a file.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Also draw it.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// What a benchmark has measured.
pub(super) trait Report: Serialize {
    /// Name and version of the JSON form.
    const SCHEMA: &'static str;

    /// The tables.
    fn write(&self, out: &mut impl Write) -> io::Result<()>;

    /// The picture.
    fn plot(&self) -> Plot;
}

/// A report with what every one has.
#[derive(Serialize)]
struct Whole<'a, R> {
    schema: &'static str,
    version: &'static str,
    machine: &'a Machine,
    #[serde(flatten)]
    report: &'a R,
}

/// Measures and shows the result, or says why there is none.
pub(super) fn conclude<R: Report>(
    output: &Output,
    measure: impl FnOnce() -> Result<R, BenchError>,
) -> io::Result<ExitCode> {
    let machine = Machine::read();
    for warning in &machine.warnings {
        anstream::eprintln!("pagemend bench: {warning}");
    }
    match measure() {
        Ok(report) => {
            output.show(&machine, &report)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(BenchError::Interrupted) => {
            anstream::eprintln!("pagemend bench: interrupted before everything was measured");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => {
            anstream::eprintln!("pagemend bench: {}", chain(&error));
            Ok(ExitCode::from(CANNOT))
        }
    }
}

impl Output {
    fn show<R: Report>(&self, machine: &Machine, report: &R) -> io::Result<()> {
        let whole = Whole {
            schema: R::SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            machine,
            report,
        };
        let json = serde_json::to_string_pretty(&whole)?;
        if let Some(file) = &self.save {
            write(file, &json)?;
        }
        if let Some(file) = &self.svg {
            write(file, &report.plot().draw())?;
        }
        let mut out = anstream::stdout().lock();
        if self.json {
            writeln!(out, "{json}")?;
        } else {
            writeln!(out, "{machine}")?;
            writeln!(out)?;
            report.write(&mut out)?;
        }
        out.flush()
    }
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    fs::write(file, text)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))
}
