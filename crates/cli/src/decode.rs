//! `pagemend decode`, because an error record is read by a person before it is acted upon.

mod explain;
mod facts;
mod hex;
mod input;
mod machine_check;
mod read;
mod tables;
mod text;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use explain::Item;
use input::InputError;
use pagemend::Ledger;
use read::{Problem, Reading};
use serde::Serialize;

use crate::NO_ANSWER;
use crate::layout;

/// The name and version of the `--json` form, which docs/decode.md describes.
const SCHEMA: &str = "pagemend.decode/1";
/// Some of an input is damaged, or of no known form.
const DAMAGED: u8 = 1;
/// Nothing in an input is of a known form.
const UNKNOWN: u8 = 3;

/// Says what error records mean: CPER records, ACPI error status blocks, the tables HEST, BERT, ERST and
/// EINJ, machine-check registers, and what kernels log of them.
///
/// Exits with 0 when all of the input was understood, with 1 when some of it is damaged, with 3 when
/// nothing in an input is of a known form, and with 2 when an input could not be read.
#[derive(Debug, Args)]
pub(crate) struct Decode {
    /// Files: binary, hexadecimal or JSON, kernel logs, or registers as text, such as
    /// `bank=9 status=0x9c00180000000000 addr=0x40002000`; `-` is standard input. Such as
    /// /sys/firmware/acpi/tables/HEST.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print JSON (schema pagemend.decode/1) instead of text.
    #[arg(long, conflicts_with = "to")]
    json: bool,
    /// Write the records and status blocks themselves to standard output instead of text.
    #[arg(long, value_name = "FORM")]
    to: Option<Form>,
    /// Say which lost frame of a guest an address is, by its ledger: JSON or binary.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// Bytes as UEFI and ACPI lay them out.
    Cper,
}

/// All that decode has to say.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    version: &'static str,
    inputs: Vec<Input>,
}

/// What one file holds.
#[derive(Serialize)]
struct Input {
    name: String,
    items: Vec<Item>,
    problem: Option<Problem>,
}

impl Decode {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        let ledger = match self.ledger.as_deref().map(read_ledger).transpose() {
            Ok(ledger) => ledger,
            Err(why) => {
                anstream::eprintln!("pagemend decode: {why}");
                return Ok(ExitCode::from(NO_ANSWER));
            }
        };
        let (mut inputs, mut bytes, mut code) = (Vec::new(), Vec::new(), 0);
        for path in &self.files {
            match input::read(path) {
                Err(error) => {
                    complain(&error);
                    code = code.max(severity(NO_ANSWER));
                }
                Ok(content) => {
                    let reading = read::read(content);
                    bytes.extend_from_slice(&reading.bytes());
                    let input = describe(path.display().to_string(), reading, ledger.as_ref());
                    code = code.max(severity(input.exit_code()));
                    inputs.push(input);
                }
            }
        }
        let report = Report {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            inputs,
        };
        self.write(&report, &bytes)?;
        Ok(ExitCode::from(CODES[code]))
    }

    fn write(&self, report: &Report, bytes: &[u8]) -> io::Result<()> {
        if let Some(Form::Cper) = self.to {
            for input in &report.inputs {
                text::complain(input);
            }
            let mut out = io::stdout().lock();
            out.write_all(bytes)?;
            return out.flush();
        }
        let mut out = anstream::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, report)?;
            writeln!(out)?;
        } else {
            text::write(&mut out, report, layout::width())?;
        }
        out.flush()
    }
}

/// Exit codes from the best to the worst: of several inputs the worst counts.
const CODES: [u8; 4] = [0, DAMAGED, UNKNOWN, NO_ANSWER];

fn severity(code: u8) -> usize {
    CODES.iter().position(|known| *known == code).unwrap_or(0)
}

fn describe(name: String, reading: Reading, ledger: Option<&Ledger>) -> Input {
    let items = reading.found.iter().map(|found| {
        let mut item = explain::explain(found);
        item.add_fates(&reading.fates);
        if let Some(ledger) = ledger {
            item.add_frames(ledger);
        }
        item.finish();
        item
    });
    Input {
        name,
        items: items.collect(),
        problem: reading.problem,
    }
}

impl Input {
    fn exit_code(&self) -> u8 {
        let damaged = self.problem.is_some() || self.items.iter().any(Item::is_damaged);
        match (self.items.is_empty(), damaged) {
            (true, _) => UNKNOWN,
            (false, true) => DAMAGED,
            (false, false) => 0,
        }
    }
}

fn complain(error: &InputError) {
    anstream::eprintln!("pagemend decode: {error}");
}

/// A ledger in either of its forms.
fn read_ledger(path: &std::path::Path) -> Result<Ledger, String> {
    let name = path.display();
    let bytes = fs::read(path).map_err(|error| format!("--ledger {name}: {error}"))?;
    let is_json = bytes.trim_ascii_start().starts_with(b"{");
    let ledger = match is_json {
        true => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        false => Ledger::from_bytes(&bytes).map_err(|error| error.to_string()),
    };
    ledger.map_err(|why| format!("--ledger {name}: this is no ledger: {why}"))
}
