//! `cargo xtask bench`: every benchmark, and docs/performance.md from what they say.
//!
//! The document is written by a run and by nothing else, so that each number in it has the command
//! beside it that produced it.

mod limits;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

/// Arguments of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Where the document goes; docs/performance.md unless said
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Measure also where the machine is busy
    #[arg(long)]
    busy: bool,
}

/// A benchmark, and what the document says before its table.
struct Section {
    title: &'static str,
    arguments: &'static str,
    text: &'static str,
}

const SECTIONS: [Section; 14] = [
    Section {
        title: "Waiting for a failed page of 2 MiB",
        arguments: "blackout --page-size 2M --samples 208",
        text: "Targets: who does not touch the page sees no gap that guests without an error do not \
               see; with a thousand errors at once nobody waits longer than 10 times the 99th \
               percentile with one.",
    },
    Section {
        title: "Waiting for a failed page of 1 GiB",
        arguments: "blackout --page-size 1G --samples 12",
        text: "Targets: a vCPU that touches a healthy byte waits, at the 99th percentile, at most a \
               50th of the RFC's way and 3 times the copy of 2 MiB; all of the page is back at 70 % \
               of the rate of copies; and as for pages of 2 MiB.",
    },
    Section {
        title: "Memory after errors",
        arguments: "memcycler --page-size 2M --rounds 21",
        text: "Target: within 1 % of healthy memory after 25 % of the pages were hit and mended and \
               healed.",
    },
    Section {
        title: "Memory after errors, pages of 1 GiB",
        arguments: "memcycler --page-size 1G --policy mend --rounds 31",
        text: "Target: within 1 % of healthy memory after every page was hit once and mended. Each \
               case takes a page of 1 GiB of its own, so not all have their turn in one run.",
    },
    Section {
        title: "Memory after errors, pages of 1 GiB, healed",
        arguments: "memcycler --page-size 1G --policy mend+heal --rounds 31",
        text: "",
    },
    Section {
        title: "Memory after errors, pages of 1 GiB, all split",
        arguments: "memcycler --page-size 1G --policy split --rounds 11",
        text: "",
    },
    Section {
        title: "Memory after errors, one word a page",
        arguments: "memcycler --page-size 2M --stride 4160 --rounds 11",
        text: "Bound by translations rather than by memory.",
    },
    Section {
        title: "Memory after errors, one word a page, pages of 1 GiB",
        arguments: "memcycler --page-size 1G --policy mend --stride 4160 --rounds 11",
        text: "",
    },
    Section {
        title: "Memory after errors, random words",
        arguments: "memcycler --page-size 2M --random --rounds 11",
        text: "Bound by translations rather than by memory.",
    },
    Section {
        title: "Memory after errors, inside a guest",
        arguments: "memcycler --page-size 2M --guest --rounds 5",
        text: "The guest's own page tables have pages of 2 MiB.",
    },
    Section {
        title: "Reading a page back",
        arguments: "salvage",
        text: "One core's memcpy is what a page could come back at.",
    },
    Section {
        title: "Reading a page of 1 GiB back",
        arguments: "salvage --page-size 1G",
        text: "",
    },
    Section {
        title: "Remembering lost frames",
        arguments: "ledger",
        text: "",
    },
    Section {
        title: "Guarded access",
        arguments: "guard",
        text: "",
    },
];

/// The load on one processor above which times say little.
const BUSY: f64 = 0.5;

/// Runs all benchmarks and writes the document.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !arguments.busy && load_of_a_processor()? > BUSY {
        bail!("the machine is busy, and what is measured now says little: wait, or say --busy");
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace")?;
    let output = match &arguments.output {
        Some(file) => file.clone(),
        None => workspace.join("docs/performance.md"),
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "pagemend-cli"])
        .current_dir(workspace)
        .status()
        .context("building the command")?;
    if !built.success() {
        bail!("the command cannot be built");
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    let program = target.join("release/pagemend");
    let mut sections = vec![];
    for section in &SECTIONS {
        eprintln!("pagemend bench {}", section.arguments);
        sections.push(measured(&program, section)?);
    }
    fs::write(&output, document(&sections)?)
        .with_context(|| format!("writing {}", output.display()))?;
    println!("{}", output.display());
    Ok(ExitCode::SUCCESS)
}

/// Processes that want a processor, for each that there is, over the last minute.
fn load_of_a_processor() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    let load = text.split(' ').next().and_then(|load| load.parse().ok());
    let load: f64 = load.context("/proc/loadavg does not begin with a load")?;
    let processors = std::thread::available_parallelism().context("counting processors")?;
    Ok(load / processors.get() as f64)
}

/// What a benchmark has printed, the machine's line apart.
struct Measured<'a> {
    section: &'a Section,
    machine: String,
    table: String,
    /// The same as JSON.
    report: Value,
}

fn measured<'a>(program: &Path, section: &'a Section) -> Result<Measured<'a>> {
    let saved = program.with_file_name("pagemend-bench.json");
    let output = Command::new(program)
        .arg("bench")
        .args(section.arguments.split(' '))
        .arg("--save")
        .arg(&saved)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", program.display()))?;
    if !output.status.success() {
        bail!("`pagemend bench {}` has not measured", section.arguments);
    }
    let report = fs::read(&saved).with_context(|| format!("reading {}", saved.display()))?;
    let text = String::from_utf8(output.stdout).context("what it printed is no text")?;
    let (machine, table) = text
        .split_once("\n\n")
        .context("what it printed does not begin with the machine")?;
    Ok(Measured {
        section,
        machine: machine.to_owned(),
        table: table.trim_end().to_owned(),
        report: serde_json::from_slice(&report).context("what it saved is no JSON")?,
    })
}

fn document(sections: &[Measured<'_>]) -> Result<String> {
    let first = sections.first().context("nothing was measured")?;
    let mut text = String::from(
        "# Performance\n\n\
         What memory-failure recovery costs, measured by `pagemend bench` on one machine. This file \
         is written by\n\n```\ncargo xtask bench\n```\n\n\
         and by nothing else; run it to have it for yours. How each benchmark measures is in \
         [bench.md](bench.md). Everything that is compared takes turns in one run, so trust ratios \
         more than times. Errors are emulated.\n\n",
    );
    writeln!(text, "The machine: {}.", first.machine)?;
    for Measured { section, table, .. } in sections {
        writeln!(text, "\n## {}\n", section.title)?;
        if !section.text.is_empty() {
            writeln!(text, "{}\n", section.text)?;
        }
        writeln!(
            text,
            "```console\n$ pagemend bench {}\n```\n\n```text\n{table}\n```",
            section.arguments
        )?;
    }
    let reports: Vec<Value> = sections.iter().map(|it| it.report.clone()).collect();
    text.push_str(&limits::section(&reports)?);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_stands_below_the_command_that_made_it() {
        let measured = |section| Measured {
            section,
            machine: "a machine".to_owned(),
            table: format!("numbers of {}", section.title),
            report: serde_json::json!({"schema": "pagemend.bench.none/1"}),
        };
        let sections: Vec<_> = SECTIONS.iter().map(measured).collect();
        let text = document(&sections).unwrap();
        assert!(text.contains("The machine: a machine."));
        let mut rest = text.as_str();
        for section in &SECTIONS {
            let command = format!("$ pagemend bench {}\n", section.arguments);
            let (_, after) = rest.split_once(&command).unwrap();
            let (_, after) = after
                .split_once(&format!("numbers of {}\n", section.title))
                .unwrap();
            rest = after;
        }
    }
}
