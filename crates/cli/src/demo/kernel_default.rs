//! What the same errors would have cost without pagemend: let happen to memory of a child process
//! where errors are real anyway, else computed.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use pagemend::{Gpa, GuestMemory, kernel_default};
use serde::Serialize;

use super::run::Outcome;
use super::{Injection, report};
use crate::chain;
use crate::pages::Pages;

/// The kernel's own answer to the same errors.
#[derive(Debug, Serialize)]
pub(super) struct KernelDefault {
    pub(super) lost_bytes: u64,
    /// `measured` or `computed`.
    pub(super) method: &'static str,
    /// How it was measured, or why it was not.
    pub(super) how: String,
}

impl KernelDefault {
    /// Measures it, or computes it: every page that the kernel takes away whole is lost whole.
    pub(super) fn of(pages: Pages, inject: Injection, outcome: &Outcome) -> Self {
        let unit = report::unit_of_loss(outcome);
        let hit: BTreeSet<Gpa> = outcome
            .injected
            .iter()
            .map(|gpa| gpa.align_down(unit))
            .collect();
        let computed = |why: &str| Self {
            lost_bytes: hit.len() as u64 * unit.bytes(),
            method: "computed",
            how: format!("{} for each page that was hit; {why}", unit),
        };
        if inject == Injection::Emulated {
            return computed(
                "to measure it, memory would have to be taken out of use until the next boot, \
                 as --inject madvise does",
            );
        }
        // The same frames of the same pages, without the pages that were not hit.
        let offsets = outcome.injected.iter().map(|gpa| {
            let page = hit.range(..gpa.align_down(unit)).count() as u64;
            page * unit.bytes() + (gpa.get() & (unit.bytes() - 1))
        });
        let offsets: Vec<u64> = offsets.collect();
        match measure(pages, hit.len() as u64 * unit.bytes(), &offsets) {
            Ok(lost_bytes) => Self {
                lost_bytes,
                method: "measured",
                how: "by letting it happen to a process without pagemend".to_owned(),
            },
            Err(error) => computed(&format!("it could not be measured: {}", chain(&error))),
        }
    }
}

/// Lets it happen in a child, which is told by its arguments and, for there may be many, by lines
/// on its standard input.
fn measure(pages: Pages, len: u64, offsets: &[u64]) -> io::Result<u64> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("kernel-default")
        .args(["--page-size", pages.name(), "--memory", &len.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("it was piped");
    let lines: String = offsets.iter().map(|offset| format!("{offset}\n")).collect();
    // A child that does not read says why on its standard error.
    let _ = stdin.write_all(lines.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().parse() {
        Ok(bytes) if output.status.success() => Ok(bytes),
        _ => Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        )),
    }
}

/// The child: makes memory of its own fail, and prints the bytes that are lost.
#[derive(Debug, Args)]
pub(crate) struct Measure {
    #[arg(long)]
    page_size: Pages,
    #[arg(long)]
    memory: u64,
}

impl Measure {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        match self.bytes_lost() {
            Ok(bytes) => {
                writeln!(io::stdout(), "{bytes}")?;
                Ok(ExitCode::SUCCESS)
            }
            Err(error) => {
                writeln!(io::stderr(), "{}", chain(&*error))?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    fn bytes_lost(&self) -> Result<u64, Box<dyn std::error::Error>> {
        let offsets = io::stdin()
            .lines()
            .map(|line| Ok(line?.parse()?))
            .collect::<Result<Vec<u64>, Box<dyn std::error::Error>>>()?;
        let memory = GuestMemory::new(self.page_size.kind(), self.memory)?;
        Ok(kernel_default::bytes_lost(&memory, &offsets)?)
    }
}
