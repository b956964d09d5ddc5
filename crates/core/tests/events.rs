//! docs/events.md is what programs that read events are written against: its examples are what
//! the engine emits, and its tables name every field.

use std::collections::BTreeSet;

use pagemend_core::address::{Gpa, GpaRange, PageSize};
use pagemend_core::event::{Event, FillTimes, SCHEMA, Step, Totals};
use pagemend_core::fault::Verdict;
use pagemend_core::ledger::Cause;
use pagemend_core::map::{Backing, FileId, Segment, Source};
use pagemend_core::plan::{Action, Reason};
use pagemend_core::policy::Policy;
use pagemend_core::time::Timestamp;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/events.md");

fn range(start: u64, len: u64) -> GpaRange {
    GpaRange::new(Gpa::new(start), len).expect("it ends below 2^64")
}

/// One step of each kind, in the order of the document: those of a mended 2 MiB page, then what
/// is different where a step fails.
fn steps() -> Vec<Step> {
    let lost = vec![range(0x4000_3000, 4096)];
    let gpa = Gpa::new(0x4000_5040);
    let failed = Reason::StepFailed {
        step: "stage".into(),
        error: "out of memory".into(),
    };
    let segment = Segment {
        gpa: range(0x4000_0000, 2 << 20),
        page_size: PageSize::SIZE_4K,
        backing: Backing::Shmem,
        source: Some(Source {
            file: FileId(1),
            offset: 0,
        }),
    };
    vec![
        Step::Fault {
            region: "ram".into(),
            gpa,
            cause: Cause::ActionRequired,
        },
        Step::Plan {
            policy: Policy::Keep,
            action: Action::Mend,
            reasons: vec![Reason::KeepUnavailable],
        },
        Step::Claim,
        Step::Stage,
        Step::Salvage {
            recovered_bytes: (2 << 20) - 4096,
            lost: lost.clone(),
        },
        Step::Poison { marked_bytes: 4096 },
        Step::Swap {
            segments: vec![segment],
            reasons: vec![],
        },
        Step::Record {
            lost,
            lost_bytes: 4096,
        },
        Step::Done {
            action: Some(Action::Mend),
            verdict: Verdict::Mended,
            reasons: vec![Reason::KeepUnavailable],
            total_ns: 710_000,
        },
        Step::Done {
            action: Some(Action::Abandon),
            verdict: Verdict::Lost {
                gpa: Gpa::new(0x4000_5000),
            },
            reasons: vec![failed.clone()],
            total_ns: 310_000,
        },
        Step::Fail { reason: failed },
        Step::Cover,
        Step::Fill {
            part: range(0x4000_0000, 2 << 20),
            touched: true,
            recovered_bytes: (2 << 20) - 4096,
            lost: vec![range(0x4000_3000, 4096)],
            segments: vec![segment],
            reasons: vec![],
            left_bytes: 0,
            took: FillTimes {
                stage_ns: 25_000,
                salvage_ns: 36_000,
                poison_ns: 12_000,
                swap_ns: 5_000,
            },
        },
        Step::Complete {
            recovered_bytes: (2 << 20) - 4096,
            total_ns: 950_000,
        },
        Step::Cancel {
            left_bytes: 2 << 20,
        },
        Step::Renew {
            zeroed: vec![range(0x4000_3000, 4096)],
            segments: vec![Segment {
                page_size: PageSize::SIZE_2M,
                backing: Backing::Hugetlb,
                ..segment
            }],
            reasons: vec![],
        },
        Step::Reset {
            renewed_pages: 1,
            cleared_frames: 1,
            lost: vec![],
        },
        Step::Entrust {
            lost: vec![range(0x4000_3000, 4096)],
        },
        Step::Heal {
            lost: vec![range(0x4000_3000, 4096)],
            segments: vec![Segment {
                page_size: PageSize::SIZE_2M,
                ..segment
            }],
        },
        Step::TakeBack {
            lost: vec![range(0x4000_3000, 4096)],
        },
    ]
}

fn events() -> Vec<Event> {
    let event = |(number, step): (u64, Step)| Event {
        schema: SCHEMA,
        fault: u64::from(!matches!(
            step,
            Step::Renew { .. } | Step::Reset { .. } | Step::Entrust { .. } | Step::Heal { .. }
        )),
        time: Timestamp::from_nanos(1_790_000_000_000_000_000 + number * 80_000),
        duration_ns: 79_000,
        page: range(0x4000_0000, 2 << 20),
        step,
    };
    (1..).zip(steps()).map(event).collect()
}

/// The `code` in the first column of the table under a heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let title = format!("\n### {heading}\n");
    let (_, section) = DOCUMENT
        .split_once(&title)
        .unwrap_or_else(|| panic!("docs/events.md has no section '{heading}'"));
    let section = section.split("\n#").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| Some(row.split_once('`')?.0.to_owned()))
        .collect()
}

fn keys(value: &Value) -> BTreeSet<String> {
    let object = value.as_object().expect("it is an object");
    object.keys().cloned().collect()
}

/// The keys that are not among those `known`.
fn without(mut keys: BTreeSet<String>, known: &BTreeSet<String>) -> BTreeSet<String> {
    keys.retain(|key| !known.contains(key));
    keys
}

#[test]
fn every_example_in_the_document_is_what_the_engine_emits() {
    let lines = DOCUMENT
        .lines()
        .filter(|line| line.starts_with("{\"schema\""));
    let documented: Vec<&str> = lines.collect();
    let emitted: Vec<String> = events()
        .iter()
        .map(|event| serde_json::to_string(event).unwrap())
        .collect();
    assert_eq!(documented, emitted, "write this:\n{}", emitted.join("\n"));
}

#[test]
fn every_field_of_every_step_is_documented_and_no_other() {
    let common = documented("Every event");
    let mut done = BTreeSet::new();
    for event in events() {
        let event = serde_json::to_value(event).unwrap();
        let step = event["step"].as_str().unwrap().to_owned();
        let fields = keys(&event);
        assert!(common.is_subset(&fields), "{step} lacks {common:?}");
        let fields = without(fields, &common);
        if step == "done" {
            // Its verdicts differ in their fields.
            done.extend(fields);
        } else {
            assert_eq!(fields, documented(&step), "step {step}");
        }
    }
    assert_eq!(done, documented("done"));
}

#[test]
fn every_field_of_ranges_segments_and_fill_times_is_documented() {
    let fill = events().into_iter().find_map(|event| match event.step {
        Step::Fill { took, .. } => Some(serde_json::to_value(took).unwrap()),
        _ => None,
    });
    assert_eq!(keys(&fill.expect("it is a step")), documented("Fill times"));
    let swap = serde_json::to_value(&events()[6]).unwrap();
    let segment = &swap["segments"][0];
    assert_eq!(keys(&swap["page"]), documented("Range"));
    assert_eq!(keys(segment), documented("Segment"));
    assert_eq!(keys(&segment["source"]), documented("Source"));
}

#[test]
fn every_reason_and_total_is_documented() {
    let reasons = [
        Reason::KeepUnavailable,
        Reason::NoFileView,
        Reason::SalvageUnavailable,
        Reason::PoisonUnavailable,
        Reason::ConsumerCannotFollow { name: "a".into() },
        Reason::NothingSalvaged,
        Reason::StepFailed {
            step: "swap".into(),
            error: "b".into(),
        },
        Reason::SmallerPages {
            wanted: PageSize::SIZE_2M,
            got: PageSize::SIZE_4K,
            bytes: 4096,
            why: "c".into(),
        },
    ];
    let names = documented("Reason");
    let mut named = BTreeSet::new();
    for reason in reasons {
        let reason = serde_json::to_value(reason).unwrap();
        let name = reason["reason"].as_str().unwrap().to_owned();
        for field in without(keys(&reason), &BTreeSet::from(["reason".into()])) {
            let row = DOCUMENT
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}` |")));
            assert!(
                row.is_some_and(|row| row.contains(&format!("`{field}`"))),
                "{name}: {field}"
            );
        }
        named.insert(name);
    }
    assert_eq!(named, names);
    let totals = serde_json::to_value(Totals::default()).unwrap();
    assert_eq!(keys(&totals), documented("Totals"));
}
