//! `pagemend inject`: memory of a running machine is made to fail.

mod outcome;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args};
use pagemend::{Gpa, GpaRange, PageSize};
use pagemend_vmm::api::{Client, ClientError, Kind, Method};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::size::Size;
use outcome::{Outcome, Watch};

/// The name and version of the `--json` form, which docs/vmm.md describes.
const SCHEMA: &str = "pagemend.inject/1";
/// The exit code where memory was not made to fail.
const CANNOT: u8 = 2;

/// Makes a frame of a running machine's memory fail, and says what became of it.
///
/// An error of kind ar is noticed when somebody touches its page, one of kind ao at once. Methods:
/// emulated works on any host; madvise and corrupt-pfn make the host's kernel believe in the error,
/// need root, and take the page out of use until the host is booted again.
///
/// Exits with 0 when the frame has failed and, with --wait, has been dealt with; with 1 when it was
/// not dealt with in time; and with 2 when it could not be made to fail.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").required(true).args(["gpa", "random"])))]
pub(crate) struct Inject {
    /// The socket that the machine was given with --api.
    #[arg(long, value_name = "SOCKET")]
    vm: PathBuf,
    /// The guest physical address, such as 0x1234000.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    gpa: Option<Gpa>,
    /// A frame picked at random of those that are not lost.
    #[arg(long)]
    random: bool,
    /// What the random frame depends on: the same seed gives the same frame again.
    #[arg(long, value_name = "N", requires = "random")]
    seed: Option<u64>,
    /// How it is noticed: ar (action required) or ao (action optional).
    #[arg(long)]
    kind: Kind,
    /// What makes it fail: emulated, madvise or corrupt-pfn.
    #[arg(long)]
    method: Method,
    /// Wait until it has been dealt with, for so many seconds at most: 30 unless said.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "30")]
    wait: Option<u64>,
    /// Print JSON (schema pagemend.inject/1) instead of text.
    #[arg(long)]
    json: bool,
}

fn address(text: &str) -> Result<Gpa, String> {
    let number = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number
        .map(Gpa::new)
        .map_err(|_| "expected an address such as 0x1234000".to_owned())
}

/// What the machine answers.
#[derive(Deserialize, Serialize)]
struct Injection {
    gpa: Gpa,
    page: GpaRange,
    kind: Kind,
    method: Method,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

/// All that there is to say.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    injection: Injection,
    /// What became of it; null where that was not waited for, or was too long in coming.
    outcome: Option<Outcome>,
}

impl Inject {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        match self.inject() {
            Ok(report) => {
                let mut out = anstream::stdout().lock();
                match self.json {
                    true => {
                        serde_json::to_writer_pretty(&mut out, &report)?;
                        writeln!(out)?;
                    }
                    false => self.write(&mut out, &report)?,
                }
                let overdue = self.wait.is_some() && report.outcome.is_none();
                Ok(ExitCode::from(u8::from(overdue)))
            }
            Err(error) => {
                anstream::eprintln!("pagemend inject: {}", crate::chain(&error));
                Ok(ExitCode::from(CANNOT))
            }
        }
    }

    fn inject(&self) -> Result<Report, ClientError> {
        let client = Client::new(&self.vm);
        // Before it fails: nothing that becomes of it is missed.
        let watch = self.wait.map(|_| Watch::start(&client)).transpose()?;
        let mut wish = json!({ "kind": self.kind, "method": self.method });
        for (name, value) in [("gpa", self.gpa.map(Gpa::get)), ("seed", self.seed)] {
            if let Some(value) = value {
                wish[name] = value.into();
            }
        }
        let answer = client.put("/api/v1/memory.inject", &wish)?;
        let injection = understand(answer)?;
        let outcome = watch
            .zip(self.wait)
            .and_then(|(watch, limit)| watch.outcome(injection.gpa, Duration::from_secs(limit)));
        Ok(Report {
            schema: SCHEMA,
            injection,
            outcome,
        })
    }

    fn write(&self, out: &mut impl Write, report: &Report) -> io::Result<()> {
        let Injection {
            gpa,
            page,
            kind,
            method,
            seed,
        } = &report.injection;
        let name = |value| serde_json::to_value(value).unwrap_or_default();
        let (kind, method) = (name(json!(kind)), name(json!(method)));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, method) = (text(&kind), text(&method));
        writeln!(out, "Failed     {gpa}, kind {kind}, {method}")?;
        if page.len() > PageSize::SIZE_4K.bytes() {
            writeln!(out, "Page       {}, {}", page.start(), Size(page.len()))?;
        }
        if let Some(seed) = seed {
            writeln!(out, "Seed       {seed}")?;
        }
        match (&report.outcome, self.wait) {
            (Some(outcome), _) => outcome.write(out),
            (None, Some(limit)) => writeln!(
                out,
                "Became     nothing in {limit} s: an error of kind ar waits until somebody touches \
                 its page"
            ),
            (None, None) => Ok(()),
        }
    }
}

fn understand(answer: Value) -> Result<Injection, ClientError> {
    serde_json::from_value(answer).map_err(|error| ClientError::Answer(error.to_string()))
}
