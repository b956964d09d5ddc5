//! The demonstration for people, on a terminal or in a log.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use pagemend::{Action, Cause, GuestMemory, PageSize};

use super::Settings;
use super::memory::PassedOver;
use super::picture::{Picture, by_backing};
use super::report::Report;
use super::timeline::Treated;
use crate::layout::wrap;
use crate::size::Size;

const BOLD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Where text behind a label starts.
const INDENT: usize = 11;
/// Rows of the memory map, and faults in the timeline.
const MAP_ROWS: u64 = 4;
const FAULTS: usize = 20;

/// What is about to happen.
pub(super) fn write_opening(
    out: &mut impl Write,
    settings: &Settings,
    memory: &GuestMemory,
    passed_over: &[PassedOver],
    grown: u64,
    width: usize,
) -> io::Result<()> {
    let mut took = format!("{} of {}", Size(memory.len()), memory.kind());
    if grown > 0 {
        let pages = memory.kind().page_size();
        took.push_str(&format!(
            " ({grown} pages of {pages} added to the pool for it)"
        ));
    }
    write_item(out, "Memory", &took, width)?;
    for PassedOver { memory, why } in passed_over {
        write_item(out, "", &format!("not {memory}: {why}"), width)?;
    }
    let workers = format!(
        "{} threads check and rewrite every word of it, pass after pass",
        settings.threads
    );
    write_item(out, "Workers", &workers, width)?;
    let errors = format!(
        "{} frames of 4 KiB fail ({}, seed {}, policy {})",
        settings.errors,
        settings.inject.name(),
        settings.seed,
        settings.policy
    );
    write_item(out, "Errors", &errors, width)?;
    writeln!(out)
}

/// What has happened.
pub(super) fn write_result(out: &mut impl Write, report: &Report, width: usize) -> io::Result<()> {
    write_map(out, report, width)?;
    write_timeline(out, report, width)?;
    write_comparison(out, report, width)?;
    write_proof(out, report, width)
}

fn write_item(out: &mut impl Write, label: &str, text: &str, width: usize) -> io::Result<()> {
    for (number, line) in wrap(text, width - INDENT).into_iter().enumerate() {
        let label = if number == 0 { label } else { "" };
        let room = INDENT - label.len();
        writeln!(out, "{BOLD}{label}{BOLD:#}{:room$}{line}", "")?;
    }
    Ok(())
}

fn glyph(page_size: PageSize) -> char {
    match page_size {
        PageSize::SIZE_4K => '░',
        PageSize::SIZE_1G => '█',
        _ => '▓',
    }
}

fn write_map(out: &mut impl Write, report: &Report, width: usize) -> io::Result<()> {
    let columns = 1 << (width as u64 - 16).ilog2();
    let picture = Picture::of(report, columns * MAP_ROWS);
    let cell = Size(picture.cell_bytes);
    writeln!(out, "{BOLD}Memory map{BOLD:#}, {cell} a cell")?;
    for (row, cells) in picture.cells.chunks(columns as usize).enumerate() {
        let address = picture.start.get() + row as u64 * columns * picture.cell_bytes;
        write!(out, "  {address:#012x}  ")?;
        for cells in cells.chunk_by(|a, b| a == b) {
            let (style, glyph) = match cells[0].lost {
                true => (BAD, '×'),
                false => (Style::new(), glyph(cells[0].page_size)),
            };
            write!(out, "{style}")?;
            for _ in cells {
                write!(out, "{glyph}")?;
            }
            write!(out, "{style:#}")?;
        }
        writeln!(out)?;
    }
    for (page_size, name, bytes) in by_backing(report) {
        let bytes = Size(bytes).to_string();
        writeln!(out, "  {} {name:<24} {bytes:>12}", glyph(page_size))?;
    }
    let lost = Size(report.lost_bytes).to_string();
    writeln!(
        out,
        "  {BAD}×{BAD:#} {:<24} {lost:>12}",
        "lost, in this cell"
    )?;
    writeln!(out)
}

fn write_timeline(out: &mut impl Write, report: &Report, width: usize) -> io::Result<()> {
    if report.timeline.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "{BOLD}Timeline{BOLD:#}: when and how each fault was found, and what was done"
    )?;
    let end = report.timeline.last().map_or(0.0, |last| last.at_micros);
    for treated in report.timeline.iter().take(FAULTS) {
        let line = describe(treated);
        let track = width.saturating_sub(line.chars().count() + 3);
        let place = (treated.at_micros / end.max(1.0) * (track.max(1) - 1) as f64) as usize;
        let track: String = (0..track)
            .map(|column| if column == place { '●' } else { '·' })
            .collect();
        writeln!(out, "  {line} {track}")?;
    }
    let more = report.timeline.len().saturating_sub(FAULTS);
    if more > 0 {
        writeln!(out, "  and {more} more (--json has them all)")?;
    }
    if let Some(micros) = &report.mend_micros {
        let times = format!(
            "{} × {}: p50 {}, p99 {}, longest {}",
            micros.count,
            done(micros.action),
            time(micros.p50),
            time(micros.p99),
            time(micros.max)
        );
        writeln!(out, "  {times}")?;
    }
    let mut reasons: Vec<&String> = report.timeline.iter().flat_map(|t| &t.reasons).collect();
    reasons.sort();
    reasons.dedup();
    for reason in reasons {
        for (number, line) in wrap(reason, width - 4).into_iter().enumerate() {
            let bullet = if number == 0 { "-" } else { " " };
            writeln!(out, "  {bullet} {line}")?;
        }
    }
    writeln!(out)
}

fn describe(treated: &Treated) -> String {
    let cause = match treated.cause {
        Cause::ActionRequired => "touched ",
        Cause::ActionOptional => "scrubbed",
    };
    format!(
        "{:>7.3} s  {cause} {:#012x}  {:<9} in {:>8}",
        treated.at_micros / 1e6,
        treated.gpa.get(),
        done(treated.action),
        time(treated.micros)
    )
}

pub(super) fn done(action: Action) -> &'static str {
    match action {
        Action::Record => "recorded",
        Action::Keep => "kept",
        Action::Mend => "mended",
        Action::Discard => "discarded",
        Action::Abandon => "abandoned",
    }
}

pub(super) fn time(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.0} µs"),
        1e3..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

fn write_comparison(out: &mut impl Write, report: &Report, width: usize) -> io::Result<()> {
    let default = &report.kernel_default;
    let share = |bytes: u64| {
        let percent = bytes as f64 / report.memory_bytes as f64 * 100.0;
        format!("{:>10} {percent:>8.3} %", Size(bytes).to_string())
    };
    writeln!(out, "{BOLD}Lost of {}{BOLD:#}", Size(report.memory_bytes))?;
    writeln!(out, "  with pagemend          {}", share(report.lost_bytes))?;
    writeln!(
        out,
        "  by the kernel's default {} ({})",
        &share(default.lost_bytes)[..],
        default.method
    )?;
    for line in wrap(&default.how, width - 4) {
        writeln!(out, "    {line}")?;
    }
    writeln!(
        out,
        "  read back from failed pages: {}",
        Size(report.recovered_bytes)
    )?;
    writeln!(out)
}

fn write_proof(out: &mut impl Write, report: &Report, width: usize) -> io::Result<()> {
    let (word, style) = match report.proven {
        true => ("Proven", GOOD.bold()),
        false => ("NOT PROVEN", BAD),
    };
    writeln!(
        out,
        "{style}{word}{style:#} by the workers, who checked {} values in {} passes",
        report.values_checked, report.passes
    )?;
    for check in &report.proof {
        let (word, style) = if check.holds {
            ("ok", GOOD)
        } else {
            ("NO", BAD)
        };
        let text = match &check.found {
            None => check.claim.clone(),
            Some(found) => format!("{}: {found}", check.claim),
        };
        for (number, line) in wrap(&text, width - 6).into_iter().enumerate() {
            let word = if number == 0 { word } else { "  " };
            writeln!(out, "  {style}{word}{style:#}  {line}")?;
        }
    }
    Ok(())
}
