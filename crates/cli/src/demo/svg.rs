//! The demonstration as a picture for a page or a talk: memory map, timeline, and what was lost.

use std::fmt::{self, Write};

use pagemend::PageSize;

use super::picture::{Cell, Picture, by_backing};
use super::report::Report;
use super::text::{done, time};
use crate::size::Size;

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 30.0;
const INNER: f64 = WIDTH - 2.0 * MARGIN;
const COLUMNS: usize = 128;
const MAP_TOP: f64 = 110.0;
const ROW: f64 = 20.0;

const LOST: &str = "#c62828";
const MENDED: &str = "#2e7d32";
const TEXT: &str = "#212121";
const QUIET: &str = "#757575";

/// The whole document.
pub(super) fn draw(report: &Report) -> String {
    let mut svg = String::new();
    write_all(&mut svg, report).expect("a string takes all that is written to it");
    svg
}

fn write_all(svg: &mut String, report: &Report) -> fmt::Result {
    let picture = Picture::of(report, COLUMNS as u64 * 4);
    let map_bottom = MAP_TOP + picture.cells.len().div_ceil(COLUMNS) as f64 * ROW;
    let timeline_top = map_bottom + 90.0;
    let summary_top = timeline_top + 170.0;
    let height = summary_top + 100.0;
    writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="14">"#
    )?;
    writeln!(
        svg,
        r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##
    )?;
    let headline = format!(
        "{} errors, {} lost of {}",
        report.injected_frames,
        Size(report.lost_bytes),
        Size(report.memory_bytes)
    );
    line(svg, (MARGIN, 42.0), (24, TEXT), &headline)?;
    let setting = format!(
        "{}; {} threads; {} errors, seed {}; policy {}",
        report.memory, report.threads, report.inject, report.seed, report.policy
    );
    line(svg, (MARGIN, 66.0), (14, QUIET), &setting)?;
    let caption = format!("Memory map, {} a cell", Size(picture.cell_bytes));
    line(svg, (MARGIN, MAP_TOP - 10.0), (14, TEXT), &caption)?;
    draw_map(svg, &picture)?;
    draw_legend(svg, report, map_bottom + 24.0)?;
    draw_timeline(svg, report, timeline_top)?;
    draw_summary(svg, report, summary_top)?;
    writeln!(svg, "</svg>")
}

/// Text at a place, in a size and colour.
fn line(
    svg: &mut String,
    (x, y): (f64, f64),
    (size, fill): (u32, &str),
    text: &str,
) -> fmt::Result {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" fill="{fill}">{text}</text>"#
    )
}

fn colour(page_size: PageSize) -> &'static str {
    match page_size {
        PageSize::SIZE_4K => "#bbdefb",
        PageSize::SIZE_1G => "#0d47a1",
        _ => "#5c9bd6",
    }
}

/// Neighbours that look alike are one rectangle; lost frames are thin marks that stay visible.
fn draw_map(svg: &mut String, picture: &Picture) -> fmt::Result {
    let width = INNER / picture.cells.len().min(COLUMNS) as f64;
    for (row, cells) in picture.cells.chunks(COLUMNS).enumerate() {
        let y = MAP_TOP + row as f64 * ROW;
        let mut column = 0;
        for alike in cells.chunk_by(|a: &Cell, b: &Cell| a == b) {
            let x = MARGIN + column as f64 * width;
            column += alike.len();
            let fill = match alike[0].lost {
                true => LOST,
                false => colour(alike[0].page_size),
            };
            writeln!(
                svg,
                r#"<rect x="{x:.2}" y="{y:.1}" width="{:.2}" height="{:.1}" fill="{fill}"/>"#,
                alike.len() as f64 * width,
                ROW - 3.0
            )?;
        }
    }
    Ok(())
}

fn draw_legend(svg: &mut String, report: &Report, y: f64) -> fmt::Result {
    let pages = by_backing(report)
        .into_iter()
        .map(|(size, name, bytes)| (colour(size), format!("{name}: {}", Size(bytes))));
    let lost = format!("a frame lost in it: {}", Size(report.lost_bytes));
    let mut x = MARGIN;
    for (fill, text) in pages.chain([(LOST, lost)]) {
        writeln!(
            svg,
            r#"<rect x="{x:.1}" y="{:.1}" width="12" height="12" fill="{fill}"/>"#,
            y - 11.0
        )?;
        line(svg, (x + 18.0, y), (13, TEXT), &text)?;
        x += 44.0 + text.chars().count() as f64 * 7.0;
    }
    Ok(())
}

/// A bar for each fault: where it stands says when, how high it is how long it took.
fn draw_timeline(svg: &mut String, report: &Report, top: f64) -> fmt::Result {
    const HEIGHT: f64 = 100.0;
    let longest = report.timeline.iter().map(|t| t.micros).fold(1.0, f64::max);
    let caption = format!(
        "Timeline: a bar for each fault, the highest {}",
        time(longest)
    );
    line(svg, (MARGIN, top - 10.0), (14, TEXT), &caption)?;
    let base = top + HEIGHT;
    let end = report.timeline.last().map_or(0.0, |last| last.at_micros);
    for treated in &report.timeline {
        let x = MARGIN + treated.at_micros / end.max(1.0) * (INNER - 4.0);
        let height = (treated.micros / longest * HEIGHT).max(2.0);
        writeln!(
            svg,
            r#"<rect x="{x:.1}" y="{:.1}" width="4" height="{height:.1}" fill="{MENDED}"/>"#,
            base - height
        )?;
    }
    writeln!(
        svg,
        r#"<path d="M{MARGIN} {base}H{}" stroke="{QUIET}"/>"#,
        WIDTH - MARGIN
    )?;
    line(svg, (MARGIN, base + 18.0), (13, QUIET), "0 s")?;
    let last = format!("{:.2} s", end / 1e6);
    line(
        svg,
        (WIDTH - MARGIN - 40.0, base + 18.0),
        (13, QUIET),
        &last,
    )
}

fn draw_summary(svg: &mut String, report: &Report, top: f64) -> fmt::Result {
    let (verdict, fill) = match report.proven {
        true => ("Proven", MENDED),
        false => ("NOT PROVEN", LOST),
    };
    let checked = format!(
        "{verdict}: {} wrong values of {} checked",
        report.wrong_values, report.values_checked
    );
    line(svg, (MARGIN, top), (18, fill), &checked)?;
    let comparison = format!(
        "Lost with pagemend: {}. By the kernel's default: {} ({}).",
        Size(report.lost_bytes),
        Size(report.kernel_default.lost_bytes),
        report.kernel_default.method
    );
    line(svg, (MARGIN, top + 28.0), (15, TEXT), &comparison)?;
    let Some(micros) = &report.mend_micros else {
        return Ok(());
    };
    let times = format!(
        "{} {}: p50 {}, p99 {}, longest {}",
        micros.count,
        done(micros.action),
        time(micros.p50),
        time(micros.p99),
        time(micros.max)
    );
    line(svg, (MARGIN, top + 54.0), (15, TEXT), &times)
}
