//! Columns that line up, on a terminal and in a document alike.

use std::io::{self, Write};

/// Rows of text: the first column to the left, the others to the right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        let head = head.iter().map(|&cell| cell.to_owned());
        Self {
            rows: vec![head.collect()],
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = width(column);
                match column {
                    0 => line.push_str(&format!("{cell:<width$}")),
                    _ => line.push_str(&format!("  {cell:>width$}")),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A time in the unit that suits it, from microseconds.
pub(super) fn time(micros: f64) -> String {
    match micros {
        _ if micros < 1.0 => format!("{:.1} ns", micros * 1e3),
        _ if micros < 1e3 => format!("{micros:.1} µs"),
        _ if micros < 1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["what", "µs"]);
        table.row(["a long name".to_owned(), "1".to_owned()]);
        table.row(["b".to_owned(), "1000".to_owned()]);
        let mut text = vec![];
        table.write(&mut text).unwrap();
        let expected = "what           µs\na long name     1\nb            1000\n";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn a_time_is_given_in_the_unit_that_suits_it() {
        let times = [0.25, 3.21, 45_600.0, 2_340_000.0].map(time);
        assert_eq!(times, ["250.0 ns", "3.2 µs", "45.6 ms", "2.34 s"]);
    }
}
