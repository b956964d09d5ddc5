//! The report for people: found, what it means, what to do, chapter by chapter.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use pagemend::probe::{Errors, Finding, Level, Verdict};

use super::Report;
use crate::layout::wrap;

/// Where the text of a finding starts, behind its level.
const INDENT: usize = 9;

pub(super) fn write(out: &mut impl Write, report: &Report, width: usize) -> io::Result<()> {
    for chapter in report.findings.chunk_by(|a, b| a.group == b.group) {
        let heading = Style::new().bold();
        writeln!(out, "{heading}{}{heading:#}", chapter[0].group.title())?;
        for finding in chapter {
            write_finding(out, finding, width)?;
        }
        writeln!(out)?;
    }
    write_verdict(out, &report.verdict, width)
}

fn write_finding(out: &mut impl Write, finding: &Finding, width: usize) -> io::Result<()> {
    let (word, style) = mark(finding.level);
    let found = format!("{}: {}", finding.title, finding.found);
    let mut lines = wrap(&found, width - INDENT).into_iter();
    let first = lines.next().unwrap_or_default();
    writeln!(out, "  {style}{word:<6}{style:#} {first}")?;
    for line in lines.chain(wrap(&finding.means, width - INDENT)) {
        writeln!(out, "{:INDENT$}{line}", "")?;
    }
    let advice = finding.advice.as_deref().unwrap_or_default();
    for (number, line) in wrap(advice, width - INDENT - 3).into_iter().enumerate() {
        let arrow = if number == 0 { "->" } else { "  " };
        let strong = Style::new().bold();
        writeln!(out, "{:INDENT$}{strong}{arrow} {line}{strong:#}", "")?;
    }
    Ok(())
}

fn mark(level: Level) -> (&'static str, Style) {
    let coloured = |colour: AnsiColor| colour.on_default();
    match level {
        Level::Good => ("ok", coloured(AnsiColor::Green)),
        Level::Note => ("note", coloured(AnsiColor::Cyan)),
        Level::Limits => ("limits", coloured(AnsiColor::Yellow)),
        Level::Blocks => ("BLOCKS", coloured(AnsiColor::Red).bold()),
    }
}

fn write_verdict(out: &mut impl Write, verdict: &Verdict, width: usize) -> io::Result<()> {
    let (word, style) = if verdict.can_mend {
        ("can mend", AnsiColor::Green.on_default().bold())
    } else {
        ("cannot mend", AnsiColor::Red.on_default().bold())
    };
    writeln!(out, "This host {style}{word}{style:#}")?;
    for form in &verdict.forms {
        let errors = match form.errors {
            Errors::Real => "real and emulated errors",
            Errors::Emulated => "emulated errors only",
        };
        write_item(
            out,
            &format!("{}: {errors}; {}", form.backing, form.how),
            width,
        )?;
    }
    let mut limits: Vec<_> = verdict.forms.iter().filter_map(|form| form.limit).collect();
    limits.dedup();
    for limit in limits {
        write_item(out, &format!("why emulated only: {limit}"), width)?;
    }
    if !verdict.can_mend {
        write_item(out, "what is marked BLOCKS above must change first", width)?;
    }
    Ok(())
}

fn write_item(out: &mut impl Write, text: &str, width: usize) -> io::Result<()> {
    for (number, line) in wrap(text, width - 4).into_iter().enumerate() {
        let bullet = if number == 0 { "-" } else { " " };
        writeln!(out, "  {bullet} {line}")?;
    }
    Ok(())
}
