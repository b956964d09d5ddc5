//! The report for people.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use super::facts::Fact;
use super::{Input, Report};
use crate::layout::wrap;

/// Columns for the names of facts.
const NAME: usize = 10;

pub(super) fn write(out: &mut impl Write, report: &Report, width: usize) -> io::Result<()> {
    let bold = Style::new().bold();
    for input in &report.inputs {
        if report.inputs.len() > 1 {
            writeln!(out, "{bold}{}{bold:#}", input.name)?;
        }
        for item in &input.items {
            writeln!(out, "{bold}{}{bold:#} ({})", item.title, item.place())?;
            write_facts(out, &item.facts, 2, width)?;
            for part in &item.parts {
                writeln!(out, "  {}", part.title)?;
                write_facts(out, &part.facts, 4, width)?;
                if let Some(problem) = &part.problem {
                    write_problem(out, problem, 4, width)?;
                }
            }
        }
        if let Some(problem) = &input.problem {
            let recognised = match input.items.is_empty() {
                true => "nothing is recognised",
                false => "what is above is all that is recognised",
            };
            let text = format!(
                "at byte {}: {}; {recognised}",
                problem.offset, problem.reason
            );
            write_problem(out, &text, 0, width)?;
        } else if input.items.is_empty() {
            write_problem(out, "the input tells of no error", 0, width)?;
        }
    }
    Ok(())
}

/// Says on stderr what is wrong, where stdout is not for people.
pub(super) fn complain(input: &Input) {
    let problems = input.items.iter().flat_map(|item| &item.parts);
    for problem in problems.filter_map(|part| part.problem.as_ref()) {
        anstream::eprintln!("pagemend decode: {}: {problem}", input.name);
    }
    if let Some(problem) = &input.problem {
        let (offset, reason) = (problem.offset, &problem.reason);
        anstream::eprintln!(
            "pagemend decode: {}: at byte {offset}: {reason}",
            input.name
        );
    }
}

fn write_facts(
    out: &mut impl Write,
    facts: &[Fact],
    indent: usize,
    width: usize,
) -> io::Result<()> {
    for fact in facts {
        let lines = wrap(&fact.text, width - indent - NAME);
        for (number, line) in lines.into_iter().enumerate() {
            let name = if number == 0 { fact.name } else { "" };
            writeln!(out, "{:indent$}{name:NAME$}{line}", "")?;
        }
    }
    Ok(())
}

fn write_problem(
    out: &mut impl Write,
    problem: &str,
    indent: usize,
    width: usize,
) -> io::Result<()> {
    let red = AnsiColor::Red.on_default().bold();
    for (number, line) in wrap(problem, width - indent - NAME).into_iter().enumerate() {
        let name = if number == 0 { "DAMAGED" } else { "" };
        writeln!(out, "{:indent$}{red}{name:NAME$}{red:#}{line}", "")?;
    }
    Ok(())
}
