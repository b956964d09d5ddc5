//! Which targets a run has reached, and what limits those that it has not: by the parts that the same
//! run has measured.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::Value;

/// A target, and what a run has to say about it.
struct Verdict {
    target: String,
    measured: String,
    met: bool,
    /// What the time went into, or what else has to be known.
    because: Vec<String>,
}

/// The section, of the reports that benchmarks have saved.
pub(super) fn section(reports: &[Value]) -> Result<String> {
    let mut verdicts = vec![];
    for report in reports {
        let schema = report["schema"].as_str().context("a report has a schema")?;
        match schema.split('/').next() {
            Some("pagemend.bench.blackout") => blackout(report, &mut verdicts),
            Some("pagemend.bench.memcycler") if report["pattern"] == "sequential" => {
                memcycler(report, &mut verdicts);
            }
            _ => {}
        }
    }
    let mut text = String::from(
        "\n## What limits it\n\nThe targets, and for those that are missed what the time went into, \
         measured in the same runs.\n\n| target | measured | |\n|---|---|---|\n",
    );
    for verdict in &verdicts {
        let outcome = if verdict.met { "met" } else { "missed" };
        writeln!(
            text,
            "| {} | {} | {outcome} |",
            verdict.target, verdict.measured
        )?;
    }
    for verdict in verdicts.iter().filter(|verdict| !verdict.met) {
        writeln!(text, "\n{}: {}.\n", verdict.target, verdict.measured)?;
        for line in &verdict.because {
            writeln!(text, "- {line}")?;
        }
    }
    Ok(text)
}

fn blackout(report: &Value, verdicts: &mut Vec<Verdict>) {
    let cases = report["cases"].as_array().into_iter().flatten();
    let copy = report["memcpy_2m_us"].as_f64();
    let machine = format!(
        "{} processors, which the guest's 2 vCPUs and the mender share, and a load of {} before it",
        report["machine"]["processors"], report["machine"]["load"]
    );
    for case in cases.filter(|case| case["method"] == "on-demand") {
        let size = pages(&case["page_size"]);
        let mut waits = vec![];
        for wait in case["waits"].as_array().into_iter().flatten() {
            let parts = listed(wait, &WAIT);
            waits.push(format!(
                "At the {}th percentile: {parts}",
                wait["percentile"]
            ));
        }
        waits.extend(copy.map(|copy| format!("A copy of 2 MiB takes {}", time(copy))));
        waits.push(machine.clone());
        if case["page_size"] == GIB {
            let mut wait = |target: &str, field: &str, most: f64| {
                if let Some(ratio) = case[field].as_f64() {
                    verdicts.push(Verdict {
                        target: target.to_owned(),
                        measured: match ratio {
                            ..0.1 => format!("1/{:.0}", 1.0 / ratio),
                            _ => format!("{ratio:.2}"),
                        },
                        met: ratio <= most,
                        because: waits.clone(),
                    });
                }
            };
            wait(
                "Wait for a page of 1 GiB, p99, at most 1/50 of the RFC's way",
                "touched_ratio_to_rfc",
                0.02,
            );
            wait(
                "Wait for a page of 1 GiB, p99, at most 3 copies of 2 MiB",
                "touched_ratio_to_memcpy_2m",
                3.0,
            );
            if let Some(rate) = case["completed_rate_to_memcpy"].as_f64() {
                let mut because = vec![format!(
                    "Each 2 MiB in the background: {}",
                    listed(&case["stream"], &STREAM)
                )];
                because.extend(without_zeroing(&case["stream"], rate));
                because.extend(waits.iter().rev().take(2).rev().cloned());
                verdicts.push(Verdict {
                    target: "All of a page of 1 GiB back at 0.7 of the rate of copies".to_owned(),
                    measured: format!("{rate:.2}"),
                    met: rate >= 0.7,
                    because,
                });
            }
        }
        gaps(report, case, &size, &machine, verdicts);
    }
    for many in report["many"].as_array().into_iter().flatten() {
        if let Some(ratio) = many["longest_ratio_to_single_p99"].as_f64() {
            let memory = many["memory_bytes"].as_u64().unwrap_or(0);
            let waits = |who: &str, times: &Value| {
                format!(
                    "Waits of {who}: p50 {}, p99 {}, longest {}",
                    micros(&times["p50_us"]),
                    micros(&times["p99_us"]),
                    micros(&times["max_us"])
                )
            };
            verdicts.push(Verdict {
                target: format!(
                    "{} errors at once over {} GiB, {}: longest wait at most 10 times the p99 of one",
                    many["errors"],
                    memory >> 30,
                    pages(&many["page_size"])
                ),
                measured: format!("{ratio:.1}"),
                // Less memory than the target names does not show that it is met.
                met: ratio <= 10.0 && memory >= 4 << 30,
                because: vec![
                    format!("The target is over 4 GiB, the run had {} GiB", memory >> 30),
                    waits("a vCPU", &many["touched"]),
                    waits("a device", &many["device"]),
                    machine.clone(),
                ],
            });
        }
    }
}

/// Who does not touch the page, next to guests without an error.
fn gaps(report: &Value, case: &Value, size: &str, machine: &str, verdicts: &mut Vec<Verdict>) {
    let guests = |copying: bool| {
        let mut baseline = report["baseline"].as_array().into_iter().flatten();
        baseline.find(|base| base["page_size"] == case["page_size"] && base["copying"] == copying)
    };
    let gap = |of: &Value| of["bystander"]["p99_us"].as_f64();
    let Some((here, without)) = gap(case).zip(guests(false).and_then(gap)) else {
        return;
    };
    let typical =
        |of: Option<&Value>| of.map_or_else(String::new, |of| micros(&of["bystander"]["p50_us"]));
    let beside = guests(true).and_then(gap).map(|gap| {
        format!(
            "Beside guests without an error, a thread that copies as much: {}",
            time(gap)
        )
    });
    verdicts.push(Verdict {
        target: format!("No gap for others, p99, that guests without an error do not see, {size}"),
        measured: format!("{}, without an error {}", time(here), time(without)),
        met: here <= without,
        because: vec![
            format!(
                "The 99th percentile of {} touches on {machine}",
                case["samples"]
            ),
            format!(
                "Half of the gaps are below {}, without an error {}, beside the copying {}",
                typical(Some(case)),
                typical(guests(false)),
                typical(guests(true))
            ),
        ]
        .into_iter()
        .chain(beside)
        .collect(),
    });
}

/// The kernel gives out no memory that it has not zeroed, and lets nobody map what has failed, so
/// that all of the page goes through a processor twice.
fn without_zeroing(stream: &Value, rate: f64) -> Option<String> {
    let part = |name: &str| stream[name].as_f64();
    let all: f64 = STREAM.iter().filter_map(|(name, _)| part(name)).sum();
    let others = all - part("memory_us")?;
    Some(format!(
        "Each byte is written twice, once to zero it: without that it would be {:.2}",
        rate * all / others
    ))
}

fn memcycler(report: &Value, verdicts: &mut Vec<Verdict>) {
    if report["place"] != "process" {
        return;
    }
    let cases = || report["cases"].as_array().into_iter().flatten();
    for case in cases() {
        let again = cases().find(|other| {
            other["policy"] == "healthy-again" && other["page_size"] == case["page_size"]
        });
        let target = match (case["policy"].as_str(), case["hit_fraction"].as_f64()) {
            (Some("mend+heal"), Some(0.25)) if case["page_size"] == 2 << 20 => {
                "Memory within 1 % of healthy: 25 % of the pages of 2 MiB hit, mended, healed"
            }
            (Some("watched"), Some(0.0)) if case["page_size"] == 2 << 20 => {
                "Memory that pagemend looks after, without an error, within 1 % of healthy"
            }
            (Some("mend"), Some(1.0)) if case["page_size"] == GIB => {
                "Memory within 1 % of healthy: every page of 1 GiB hit once, mended"
            }
            _ => continue,
        };
        let Some(ratio) = case["ratio_to_healthy"].as_f64() else {
            continue;
        };
        let pieces = case["pages"].as_array().into_iter().flatten();
        let pieces: Vec<String> = pieces
            .map(|piece| {
                let mib = piece["bytes"].as_u64().unwrap_or(0) >> 20;
                format!("{mib} MiB in {}", pages(&piece["page_size"]))
            })
            .collect();
        let spread = |case: &Value| {
            format!(
                "half of the ratios are between {:.3} and {:.3}",
                case["ratio"]["low"].as_f64().unwrap_or(f64::NAN),
                case["ratio"]["high"].as_f64().unwrap_or(f64::NAN)
            )
        };
        let mut because = vec![
            format!("From round to round {}", spread(case)),
            format!("The memory is {}", pieces.join(", ")),
        ];
        because.extend(again.map(|again| {
            format!(
                "A second healthy memory is at {:.3}, and {}",
                again["ratio_to_healthy"].as_f64().unwrap_or(f64::NAN),
                spread(again)
            )
        }));
        verdicts.push(Verdict {
            target: target.to_owned(),
            measured: format!("{ratio:.3}"),
            met: ratio >= 0.99,
            because,
        });
    }
}

const GIB: u64 = 1 << 30;

const WAIT: [(&str, &str); 6] = [
    ("signals_us", "signals and waking"),
    ("telling_us", "deciding and telling"),
    ("cover_us", "covering the page"),
    ("memory_us", "new memory, which the kernel zeroes"),
    ("reading_us", "reading"),
    ("placing_us", "writing, marking and moving"),
];

const STREAM: [(&str, &str); 4] = [
    ("memory_us", "new memory, which the kernel zeroes"),
    ("reading_us", "reading"),
    ("placing_us", "writing, marking and moving"),
    ("other_us", "all else, waiting for a processor among it"),
];

/// Parts with their share of the whole, the largest first.
fn listed(parts: &Value, names: &[(&str, &str)]) -> String {
    let parts = names
        .iter()
        .filter_map(|(field, name)| Some((*name, parts[*field].as_f64()?)));
    let mut parts: Vec<(&str, f64)> = parts.filter(|(_, micros)| *micros > 0.0).collect();
    parts.sort_by(|one, other| other.1.total_cmp(&one.1));
    let whole: f64 = parts.iter().map(|(_, micros)| micros).sum();
    let each = parts.iter().map(|(name, micros)| {
        format!("{name} {} ({:.0} %)", time(*micros), micros / whole * 100.0)
    });
    each.collect::<Vec<_>>().join(", ")
}

fn pages(size: &Value) -> String {
    match size.as_u64() {
        Some(GIB) => "pages of 1 GiB".to_owned(),
        Some(bytes) if bytes >= 1 << 20 => format!("pages of {} MiB", bytes >> 20),
        Some(bytes) => format!("pages of {} KiB", bytes >> 10),
        None => "pages".to_owned(),
    }
}

fn micros(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), time)
}

fn time(micros: f64) -> String {
    match micros {
        ..1e3 => format!("{micros:.0} µs"),
        ..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.2} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(ratio: f64) -> Value {
        json!({
            "schema": "pagemend.bench.blackout/1",
            "machine": {"processors": 2, "load": 0.1},
            "memcpy_2m_us": 330.0,
            "cases": [{
                "method": "on-demand", "page_size": GIB, "samples": 8,
                "touched_ratio_to_rfc": 0.01, "touched_ratio_to_memcpy_2m": ratio,
                "bystander": {"p50_us": 100.0, "p99_us": 900.0},
                "waits": [{"percentile": 99, "cover_us": 750.0, "reading_us": 250.0}],
            }],
            "baseline": [
                {"page_size": GIB, "copying": true, "bystander": {"p50_us": 1.0, "p99_us": 5.0}},
                {"page_size": GIB, "copying": false, "bystander": {"p50_us": 1.0, "p99_us": 1000.0}},
            ],
        })
    }

    #[test]
    fn a_missed_target_has_what_was_measured_of_its_parts() {
        let text = section(&[report(4.5)]).unwrap();
        let row = "| Wait for a page of 1 GiB, p99, at most 3 copies of 2 MiB | 4.50 | missed |";
        assert!(text.contains(row), "{text}");
        let parts = "covering the page 750 µs (75 %), reading 250 µs (25 %)";
        assert!(text.contains(parts), "{text}");
        assert_eq!(text.matches("| met |").count(), 2, "{text}");
    }

    #[test]
    fn of_targets_that_are_met_nothing_more_is_said() {
        let text = section(&[report(2.5)]).unwrap();
        assert!(!text.contains("missed |"), "{text}");
        assert!(!text.contains("covering"), "{text}");
    }
}
