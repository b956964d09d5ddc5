//! What the `vm-*` scenarios of a run came to, VMM beside VMM, for whoever ran them: a line for each machine.

use crate::outcomes::Outcome;
use pagemend_lab_protocol::Report;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

type Row = [String; 7];

const TITLES: [&str; 7] = ["", "pagemend", "lost", "healthy", "QEMU", "lost", "healthy"];

/// The table, or nothing if the run has no such scenario.
pub(crate) fn comparison(reports: &[Report]) -> String {
    let kernels: BTreeSet<&str> = reports.iter().map(|r| r.kernel.as_str()).collect();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for report in reports {
        let Some(outcome) = Outcome::of(report) else {
            continue;
        };
        let mut machine = format!("vm-{}/{}", outcome.family, outcome.machine);
        if kernels.len() > 1 {
            let _ = write!(machine, " on {}", report.kernel);
        }
        let row = rows.entry(machine.clone()).or_default();
        row[0] = machine;
        let column = if outcome.vmm == "qemu" { 4 } else { 1 };
        row[column] = outcome.guest.to_owned();
        row[column + 1] = outcome.lost;
        row[column + 2] = outcome.healthy;
    }
    if rows.is_empty() {
        return String::new();
    }
    aligned([TITLES.map(str::to_owned)].iter().chain(rows.values()))
}

fn aligned<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> String {
    let width = |column: usize| rows.clone().map(|row| row[column].len()).max();
    let widths: [usize; 7] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcomes::tests::report;
    use serde_json::json;

    #[test]
    fn a_part_of_a_run_has_each_vmm_that_ran_beside_the_other() {
        let lives = [
            ("guest_alive", json!(true)),
            ("lost_bytes", json!(8192)),
            ("healthy_bytes_lost", json!(0)),
        ];
        let dies = [
            ("guest_alive", json!(false)),
            ("lost_bytes", json!(512 << 20)),
            ("healthy_bytes_lost", json!((512 << 20) - 4096)),
        ];
        let reports = [
            report("kernel/shmem/early", &[]),
            report("vm-found/2m-amd-1/pagemend", &lives),
            report("vm-found/2m-amd-1/qemu", &dies),
            report("vm-once-1/2m-amd-1/pagemend", &lives),
        ];
        assert_eq!(
            comparison(&reports),
            "                    pagemend  lost   healthy  QEMU  lost     healthy\n\
             vm-found/2m-amd-1   lives     8 KiB  0        dies  512 MiB  524284 KiB\n\
             vm-once-1/2m-amd-1  lives     8 KiB  0\n"
        );
        assert_eq!(comparison(&reports[..1]), "");
    }
}
