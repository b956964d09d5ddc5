//! Results as a picture: for each a bar from its low to its high value, with a mark between.

use std::fmt::{self, Write};

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 30.0;
const LABELS: f64 = 280.0;
const VALUES: f64 = 120.0;
const TOP: f64 = 90.0;
const ROW: f64 = 30.0;

const TEXT: &str = "#212121";
const QUIET: &str = "#757575";
const LINE: &str = "#e0e0e0";
const BAR: &str = "#5c9bd6";
const MARK: &str = "#0d47a1";

/// What is drawn.
pub(super) struct Plot {
    pub(super) title: String,
    /// What the bar, its mark and its ends mean.
    pub(super) caption: String,
    /// Whether equal distances are equal factors. All values are above 0 then.
    pub(super) logarithmic: bool,
    /// Writes a value on the axis or at the mark.
    pub(super) unit: fn(f64) -> String,
    pub(super) rows: Vec<Row>,
}

/// One result.
pub(super) struct Row {
    pub(super) label: String,
    pub(super) low: f64,
    pub(super) mark: f64,
    pub(super) high: f64,
}

impl Plot {
    /// The whole document.
    pub(super) fn draw(&self) -> String {
        let mut svg = String::new();
        self.write(&mut svg)
            .expect("a string takes all that is written to it");
        svg
    }

    fn write(&self, svg: &mut String) -> fmt::Result {
        let bottom = TOP + self.rows.len() as f64 * ROW;
        let height = bottom + 50.0;
        writeln!(
            svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="14">"#
        )?;
        writeln!(
            svg,
            r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##
        )?;
        text(svg, (MARGIN, 36.0), (20, TEXT), &self.title)?;
        text(svg, (MARGIN, 60.0), (13, QUIET), &self.caption)?;
        let scale = self.scale();
        for tick in scale.ticks() {
            let x = scale.place(tick);
            writeln!(svg, r#"<path d="M{x:.1} {TOP}V{bottom}" stroke="{LINE}"/>"#)?;
            text(
                svg,
                (x - 15.0, bottom + 20.0),
                (12, QUIET),
                &(self.unit)(tick),
            )?;
        }
        for (number, row) in self.rows.iter().enumerate() {
            let y = TOP + number as f64 * ROW + ROW / 2.0;
            text(svg, (MARGIN, y + 5.0), (14, TEXT), &row.label)?;
            let [low, mark, high] = [row.low, row.mark, row.high].map(|at| scale.place(at));
            writeln!(
                svg,
                r#"<rect x="{low:.1}" y="{:.1}" width="{:.1}" height="12" fill="{BAR}"/>"#,
                y - 6.0,
                (high - low).max(2.0)
            )?;
            writeln!(
                svg,
                r#"<rect x="{:.1}" y="{:.1}" width="3" height="18" fill="{MARK}"/>"#,
                mark - 1.5,
                y - 9.0
            )?;
            let value = (self.unit)(row.mark);
            text(svg, (WIDTH - VALUES + 20.0, y + 5.0), (13, TEXT), &value)?;
        }
        writeln!(svg, "</svg>")
    }

    fn scale(&self) -> Scale {
        let lows = self.rows.iter().map(|row| row.low);
        let highs = self.rows.iter().map(|row| row.high);
        let (low, high) = (
            lows.fold(f64::MAX, f64::min),
            highs.fold(f64::MIN, f64::max),
        );
        match self.logarithmic {
            true => Scale {
                low: low.log10().floor(),
                high: high.log10().ceil().max(low.log10().floor() + 1.0),
                step: 1.0,
                logarithmic: true,
            },
            false => {
                let step = 10f64.powf(high.max(f64::MIN_POSITIVE).log10().floor()) / 2.0;
                Scale {
                    low: 0.0,
                    high: (high / step).ceil() * step,
                    step,
                    logarithmic: false,
                }
            }
        }
    }
}

/// From values to places.
struct Scale {
    low: f64,
    high: f64,
    step: f64,
    logarithmic: bool,
}

impl Scale {
    fn place(&self, value: f64) -> f64 {
        let value = match self.logarithmic {
            true => value.log10(),
            false => value,
        };
        let left = MARGIN + LABELS;
        left + (value - self.low) / (self.high - self.low) * (WIDTH - VALUES - left)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + '_ {
        let count = ((self.high - self.low) / self.step).round() as u32;
        (0..=count).map(|tick| {
            let at = self.low + f64::from(tick) * self.step;
            match self.logarithmic {
                true => 10f64.powf(at),
                false => at,
            }
        })
    }
}

/// Text at a place, in a size and colour.
fn text(
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(logarithmic: bool, values: &[(f64, f64, f64)]) -> Plot {
        Plot {
            title: "a < b".to_owned(),
            caption: String::new(),
            logarithmic,
            unit: |value| format!("{value}"),
            rows: values
                .iter()
                .map(|&(low, mark, high)| Row {
                    label: "row".to_owned(),
                    low,
                    mark,
                    high,
                })
                .collect(),
        }
    }

    #[test]
    fn every_value_lies_between_the_labels_and_the_numbers() {
        for (logarithmic, values) in [
            (true, &[(1.0, 50.0, 2000.0), (0.3, 0.3, 0.3)][..]),
            (false, &[(0.97, 1.0, 1.02), (0.2, 0.25, 0.3)][..]),
            (true, &[(10.0, 10.0, 10.0)][..]),
        ] {
            let plot = plot(logarithmic, values);
            let scale = plot.scale();
            for row in &plot.rows {
                let places = [row.low, row.mark, row.high].map(|value| scale.place(value));
                assert!(places.is_sorted(), "{places:?}");
                assert!(MARGIN + LABELS <= places[0] && places[2] <= WIDTH - VALUES);
            }
            assert!(scale.ticks().count() >= 2);
        }
    }

    #[test]
    fn text_cannot_break_the_document() {
        let svg = plot(false, &[(1.0, 1.0, 1.0)]).draw();
        assert!(svg.contains("a &lt; b"));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    }
}
