//! The JSON form: complete for what it has a place for, and the same as libcper's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod generate;

use std::io::Write;
use std::process::{Command, Stdio};

use generate::{record, section, status_block};
use pagemend_cper::json::{
    record_from_json, record_to_json, section_from_json, section_to_json, status_from_json,
    status_to_json,
};
use pagemend_cper::record::Record;
use pagemend_cper::section::Section;
use pagemend_cper::section::registers::{Layout, arm_layout, size, x86_layout};
use pagemend_cper::status::StatusBlock;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

/// The record with all that the JSON form has no place for gone.
fn canonical(bytes: &[u8]) -> Vec<u8> {
    let json = record_to_json(&Record::read(bytes).unwrap());
    record_from_json(&json).unwrap().build().unwrap()
}

proptest! {
    #[test]
    fn a_record_without_what_has_no_place_survives_json(builder in record()) {
        let bytes = canonical(&builder.build().unwrap());
        prop_assert_eq!(canonical(&bytes), bytes);
    }

    #[test]
    fn what_json_says_of_a_section_survives((kind, bytes) in section()) {
        let json = section_to_json(&Section::read(kind, &bytes), &bytes);
        let again = section_from_json(&json).unwrap();
        let section = Section::read(kind, &again);
        prop_assert!(section.is_ok(), "{section:?}");
        prop_assert_eq!(section_to_json(&section, &again), json);
    }

    #[test]
    fn a_status_block_survives_json(builder in status_block()) {
        let once = |bytes: &[u8]| {
            let json = status_to_json(&StatusBlock::read(bytes).unwrap());
            status_from_json(&json).unwrap().build().unwrap()
        };
        let bytes = once(&builder.build().unwrap());
        prop_assert_eq!(once(&bytes), bytes);
    }
}

/// A record with one memory section, as JSON.
fn sample() -> Value {
    json!({
        "header": {
            "revision": { "major": 1, "minor": 1 },
            "severity": { "code": 0, "name": "Recoverable" },
            "timestamp": "2026-11-21T09:30:00+00:00",
            "timestampIsPrecise": true,
            "creatorID": "00000000-0000-0000-0000-000000000000",
            "notificationType": { "guid": "4e292f96-d843-4a55-a8c2-d481f27ebeee", "type": "CPE" },
            "recordID": 77,
            "flags": { "value": 2, "name": "HW_ERROR_FLAGS_PREVERR" },
            "persistenceInfo": 0
        },
        "sectionDescriptors": [{
            "revision": { "major": 3, "minor": 0 },
            "flags": { "primary": true },
            "sectionType": { "data": "a5bc1114-6f64-4ede-b863-3e83ed7c83b1" },
            "fruText": "DIMM_A1",
            "severity": { "code": 0 }
        }],
        "sections": [{ "Memory": {
            "physicalAddress": 18_446_744_073_709_551_615_u64,
            "bank": { "group": 2, "address": 3 },
            "errorStatus": { "errorType": { "value": 4 }, "addressSignal": true },
            "memoryErrorType": { "value": 14 },
            "extended": { "rowBit16": true, "rowBit17": false, "chipIdentification": 5 },
            "row": 9
        }}]
    })
}

#[test]
fn fields_have_the_values_that_json_gave_them() {
    let bytes = record_from_json(&sample()).unwrap().build().unwrap();
    let record = Record::read(&bytes).unwrap();
    let section = record.sections().next().unwrap();
    assert_eq!(section.descriptor.fru_text(), Some(&b"DIMM_A1"[..]));
    let Ok(Section::Memory(memory)) = section.section else {
        panic!("{section:?}");
    };
    assert_eq!(memory.physical_address(), Some(u64::MAX));
    assert_eq!((memory.row(), memory.chip_id()), (Some(0x1_0009), Some(5)));
    assert_eq!(memory.error_status().unwrap().name(), Some("ERR_MEM"));
    let json = record_to_json(&record);
    assert_eq!(json["header"]["timestamp"], "2026-11-21T09:30:00+00:00");
    assert_eq!(json["header"]["recordLength"], 280);
    let memory = &json["sections"][0]["Memory"];
    assert_eq!(memory["memoryErrorType"]["name"], "Scrub Uncorrected Error");
    assert_eq!(memory["physicalAddressHex"], "0xFFFFFFFFFFFFFFFF");
    assert_eq!(memory["bank"], json!({ "address": 3, "group": 2 }));
}

#[test]
fn an_error_names_the_field() {
    let wrong = |change: fn(&mut Value)| {
        let mut json = sample();
        change(&mut json);
        record_from_json(&json).unwrap_err().to_string()
    };
    assert_eq!(
        wrong(|json| json["sections"][0]["Memory"]["row"] = 70_000.into()),
        "sections[0].Memory.row: this is no number from 0 to 2^16 - 1"
    );
    assert_eq!(
        wrong(|json| drop(json["header"].as_object_mut().unwrap().remove("flags"))),
        "header: the field flags is missing"
    );
    assert_eq!(
        wrong(|json| json["header"]["timestamp"] = "2026-13-21T09:30:00+00:00".into()),
        "header.timestamp: this is no time in the form 2026-01-31T23:59:59+00:00"
    );
    assert!(
        wrong(|json| json["sections"][0] = json!({ "Memroy": {} })).starts_with("sections[0]:")
    );
    assert!(wrong(|json| *json = json!([])).starts_with("record: "));
}

/// Python with the module `cper`, which is libcper: that of `PAGEMEND_LIBCPER_PYTHON`, or python3.
fn libcper() -> Option<String> {
    let python = std::env::var("PAGEMEND_LIBCPER_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python)
        .args(["-c", "import cper"])
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success()).then_some(python)
}

/// What libcper makes of these records.
fn libcper_reads(python: &str, records: &[Vec<u8>]) -> Vec<Value> {
    const PROGRAM: &str = "import cper, json, sys\n\
        for line in sys.stdin: print(json.dumps(cper.parse(bytes.fromhex(line))))";
    let mut child = Command::new(python)
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let lines: String = records
        .iter()
        .map(|bytes| {
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                + "\n"
        })
        .collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Whether all registers have the size that their type has; of others libcper reads the start, or what
/// follows them.
fn registers_fit(section: &Section<'_>) -> bool {
    let fits = |layout: Option<Layout>, length| layout.is_none_or(|layout| size(layout) == length);
    match section {
        Section::Arm(arm) => arm.contexts().all(|context| {
            let kind = context.header.context_type.get();
            // The miscellaneous register is ten bytes, which the JSON form has its own object for.
            let miscellaneous = kind == 8 && context.registers.len() != 10;
            fits(arm_layout(kind, usize::MAX), context.registers.len()) && !miscellaneous
        }),
        Section::X86(x86) => x86.contexts().all(|context| {
            let kind = context.header.context_type.get();
            fits(x86_layout(kind, usize::MAX), context.registers.len())
        }),
        _ => true,
    }
}

/// Every field in which libcper's form has something that ours has otherwise.
fn differences(theirs: &Value, ours: &Value, path: &str, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (key, value) in theirs {
                let ours = ours.get(key).unwrap_or(&Value::Null);
                differences(value, ours, &format!("{path}.{key}"), found);
            }
        }
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            for (place, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
                differences(theirs, ours, &format!("{path}[{place}]"), found);
            }
        }
        _ if theirs == ours || is_expected(path, theirs, ours) => {}
        _ => found.push(format!("{path}: libcper says {theirs}, we say {ours}")),
    }
}

/// The differences that the documentation of the module `json` names, and what the Python module does
/// to large numbers.
fn is_expected(path: &str, theirs: &Value, ours: &Value) -> bool {
    let capped = theirs.as_u64() == Some(i64::MAX as u64);
    let ends = |end: &str| path.ends_with(end);
    capped && ours.as_u64() > theirs.as_u64()
        || ends(".message")
        || ends(".bank") && ours.is_null()
        || path.contains(".Memory2.physicalAddress")
        || ends(".busError.accessMode")
        // Two names fewer, up to libcper 0.0.4.
        || ends(".checkInfo.errorType.name") && *theirs == "Unknown (Processor Specific)"
        // Sections that are only bytes here.
        || ends(".Pcie")
}

#[test]
fn libcper_reads_the_same_of_what_we_write() {
    let Some(python) = libcper() else {
        eprintln!(
            "skipped: no Python module cper; `apt-get install libjson-c-dev` and \
             `pip install cper` in a virtual environment, and PAGEMEND_LIBCPER_PYTHON=its python"
        );
        return;
    };
    let mut runner = TestRunner::deterministic();
    let records: Vec<_> = (0..500)
        .map(|_| {
            record()
                .new_tree(&mut runner)
                .unwrap()
                .current()
                .build()
                .unwrap()
        })
        .map(|bytes| canonical(&bytes))
        // libcper refuses records without sections, and sections without bytes.
        .filter(|bytes| {
            let record = Record::read(bytes).unwrap();
            let mut sections = record.sections();
            sections.len() > 0
                && sections.all(|section| {
                    !section.bytes.is_empty() && registers_fit(&section.section.unwrap())
                })
        })
        .collect();
    let theirs = libcper_reads(&python, &records);
    assert_eq!(theirs.len(), records.len());
    let mut found = Vec::new();
    for (theirs, bytes) in theirs.iter().zip(&records) {
        let ours = record_to_json(&Record::read(bytes).unwrap());
        differences(theirs, &ours, "", &mut found);
    }
    assert!(found.is_empty(), "{} differences: {found:#?}", found.len());
}
