//! The real program on records, tables and logs: what it says, in which form, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/decode.rs"]
mod decode;
#[path = "common/documented.rs"]
mod documented;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use decode::decode;
use pagemend::{Cause, Gpa, Ledger, Timestamp};
use pagemend_cper::acpi::hest::{
    GenericSource, GenericSource2, HestBuilder, Notification, NotificationKind,
};
use pagemend_cper::acpi::table::Origin;
use pagemend_cper::guid::{notification_type, section_type};
use pagemend_cper::record::{RecordBuilder, SectionDescriptor};
use pagemend_cper::section::memory::MemoryError;
use pagemend_cper::severity::Severity;
use pagemend_cper::status::{DataEntryHeader, StatusBlockBuilder};
use serde_json::Value;
use tempfile::TempDir;
use zerocopy::IntoBytes;

const DOCUMENT: &str = include_str!("../../../docs/decode.md");
const ADDRESS: u64 = 0x4000_2040;

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn memory() -> MemoryError {
    let mut memory = MemoryError::default();
    memory.short.validation = (1 << 1 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 14 | 1 << 17).into();
    memory.short.physical_address = ADDRESS.into();
    memory.short.node = 1.into();
    memory.short.module = 3.into();
    memory.short.row = 77.into();
    memory.short.error_type = 3;
    memory.module_handle = 0x1102.into();
    memory
}

/// What a firmware keeps of an uncorrected error.
fn record() -> Vec<u8> {
    let mut descriptor = SectionDescriptor {
        section_type: section_type::MEMORY,
        validation: 2,
        ..SectionDescriptor::default()
    };
    descriptor.fru_text[..7].copy_from_slice(b"DIMM_A1");
    RecordBuilder::new(Severity::Recoverable, notification_type::CPE)
        .section(descriptor, memory().as_bytes())
        .build()
        .unwrap()
}

/// What a VMM leaves for its guest.
fn status_block() -> Vec<u8> {
    let header = DataEntryHeader {
        section_type: section_type::MEMORY,
        revision: 0x300.into(),
        ..DataEntryHeader::default()
    };
    StatusBlockBuilder::new(Severity::Recoverable)
        .entry(header, Default::default(), memory().as_bytes())
        .build()
        .unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x} ")).collect()
}

#[test]
fn a_record_is_explained_so_that_one_can_act() {
    let output = decode(&["-"], record());
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    for part in [
        "Record of a recoverable error (byte 0)",
        "Platform Memory, recoverable",
        "Multi-bit ECC memory error",
        "physical 0x40002040",
        "node 1, module 3, row 77",
        "SMBIOS handle 0x1102: `dmidecode -t 17` names its slot",
        "DIMM_A1",
        "Do ",
    ] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

#[test]
fn a_status_block_says_what_linux_does() {
    let text = text(&decode(&["-"], status_block()));
    assert!(
        text.contains("takes the page at 0x40002000 out of use"),
        "{text}"
    );
}

#[test]
fn every_form_of_the_same_bytes_is_the_same() {
    let binary = json(&decode(&["--json", "-"], record()));
    let from_hex = json(&decode(&["--json", "-"], hex(&record()).as_bytes()));
    assert_eq!(binary, from_hex);
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("record");
    fs::write(&file, record()).unwrap();
    let from_file = json(&decode(&["--json", file.to_str().unwrap()], b""));
    assert_eq!(
        from_file["inputs"][0]["items"],
        binary["inputs"][0]["items"]
    );
}

#[test]
fn json_becomes_the_bytes_it_came_from() {
    for bytes in [record(), status_block()] {
        let report = decode(&["--json", "-"], &bytes).stdout;
        let again = decode(&["--to", "cper", "-"], &report);
        assert_eq!(again.status.code(), Some(0));
        assert_eq!(again.stdout, bytes);
        // The record's own JSON, which libcper has too, without the report around it.
        let report: Value = serde_json::from_slice(&report).unwrap();
        let alone = report["inputs"][0]["items"][0]["data"].to_string();
        assert_eq!(
            decode(&["--to", "cper", "-"], alone.as_bytes()).stdout,
            bytes
        );
    }
}

#[test]
fn several_records_follow_each_other() {
    let both = [record(), status_block(), vec![0; 64]].concat();
    let report = json(&decode(&["--json", "-"], &both));
    let items = report["inputs"][0]["items"].as_array().unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0]["kind"], "record");
    assert_eq!(items[1]["kind"], "status-block");
    assert_eq!(items[1]["offset"], record().len());
}

#[test]
fn a_ledger_names_the_frame() {
    let mut ledger = Ledger::new();
    let guest = ledger.register("guest-mce");
    let time = Timestamp::from_millis(1_763_643_600_123).unwrap();
    ledger.insert(Gpa::new(ADDRESS), Cause::ActionRequired, time);
    ledger.tell(guest, Gpa::new(ADDRESS));
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("ledger");
    for bytes in [serde_json::to_vec(&ledger).unwrap(), ledger.to_bytes()] {
        fs::write(&path, bytes).unwrap();
        let arguments = ["--json", "--ledger", path.to_str().unwrap(), "-"];
        let report = json(&decode(&arguments, record()));
        let facts = &report["inputs"][0]["items"][0]["parts"][0]["facts"];
        let facts = facts.as_array().unwrap();
        let frame = facts.iter().find(|fact| fact["name"] == "Frame").unwrap();
        assert_eq!(
            frame["text"],
            "0x40002000 is lost, touched, since 2025-11-20T13:00:00Z, told to guest-mce"
        );
        assert_eq!(facts.last().unwrap()["name"], "Do");
    }
    fs::write(&path, Ledger::new().to_bytes()).unwrap();
    let healthy = text(&decode(
        &["--ledger", path.to_str().unwrap(), "-"],
        record(),
    ));
    assert!(healthy.contains("is not lost by this ledger"), "{healthy}");

    fs::write(&path, "no ledger").unwrap();
    let output = decode(&["--ledger", path.to_str().unwrap(), "-"], record());
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("this is no ledger"));
}

#[test]
fn damage_is_told_with_what_was_recognised_and_where_it_stopped() {
    let mut bytes = [record(), record()].concat();
    bytes.truncate(record().len() + 150);
    let output = decode(&["-"], &bytes);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output);
    assert!(told.contains("Multi-bit ECC"), "{told}");
    assert!(
        told.contains("at byte 300: the record's length is 280"),
        "{told}"
    );

    // A section that leads out of its record.
    let mut bytes = record();
    bytes[128] = 0xff;
    let output = decode(&["--json", "-"], &bytes);
    assert_eq!(output.status.code(), Some(1));
    let report = json(&output);
    let problem = report["inputs"][0]["items"][0]["parts"][0]["problem"].as_str();
    assert!(problem.unwrap().starts_with("at byte 128"), "{problem:?}");
    assert_eq!(
        decode(&["--to", "cper", "-"], &bytes).status.code(),
        Some(1)
    );
}

#[test]
fn a_damaged_status_block_is_told_from_what_is_none() {
    let mut bytes = status_block();
    bytes[12] += 1;
    let output = decode(&["-"], &bytes);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output).contains("the data entries of a status block need"),
        "{}",
        text(&output)
    );
    let mut bytes = status_block();
    bytes[0] = 0x21;
    let output = decode(&["-"], &bytes);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("entry count is 2"),
        "{}",
        text(&output)
    );
}

#[test]
fn a_block_that_linux_has_read_still_says_what_it_was() {
    let mut bytes = status_block();
    bytes[..4].fill(0);
    let output = decode(&["-"], &bytes);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    assert!(text.contains("error that was read already"), "{text}");
    assert!(text.contains("physical 0x40002040"), "{text}");
}

#[test]
fn what_is_unknown_and_what_cannot_be_read_end_differently() {
    for input in [&b"hello"[..], &[0xa5; 300], b""] {
        let output = decode(&["-"], input);
        assert_eq!(output.status.code(), Some(3), "{}", text(&output));
    }
    let output = decode(&["/nowhere/record"], b"");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/record"));
    let output = decode(&["-"], br#"{ "header": {} }"#);
    assert_eq!(output.status.code(), Some(2));
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        complaint.contains("header: the field revision is missing"),
        "{complaint}"
    );
    // The worst of several inputs counts, and the others are told all the same.
    let output = decode(&["/nowhere/record", "-"], record());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("Multi-bit ECC"));
}

#[test]
fn a_table_says_how_errors_are_reported() {
    let polled = Notification::new(NotificationKind::Polled, 1000);
    let source = GenericSource::new(0, 0x7_0000_0000, 1024, polled);
    let origin = Origin {
        oem_id: *b"PAGEMD",
        oem_table_id: *b"PAGEMEND",
        oem_revision: 1,
    };
    let hest = HestBuilder::new()
        .generic2(&GenericSource2::new(source, 0x7_0000_0008))
        .build(&origin);
    let output = decode(&["-"], &hest);
    assert_eq!(output.status.code(), Some(0));
    let text = text(&output);
    for part in ["HEST", "polled every 1000 ms", "up to 1 KiB", "0x700000008"] {
        assert!(text.contains(part), "{part} is missing in:\n{text}");
    }
}

/// The kernel logs that the library's tests have.
fn logs() -> Vec<PathBuf> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cper/tests/samples");
    let files = fs::read_dir(samples)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files.collect()
}

#[test]
fn every_sample_is_explained() {
    assert!(logs().len() >= 4);
    for log in logs() {
        let output = decode(&["--json", log.to_str().unwrap()], b"");
        assert_eq!(output.status.code(), Some(0), "{}", log.display());
        for item in json(&output)["inputs"][0]["items"].as_array().unwrap() {
            assert_ne!(
                item["parts"][0]["facts"],
                Value::Array(Vec::new()),
                "{item}"
            );
        }
        let bytes = decode(&["--to", "cper", log.to_str().unwrap()], b"").stdout;
        let again = decode(&["-"], &bytes);
        assert_eq!(again.status.code(), Some(0), "{}", log.display());
    }
}

#[test]
fn a_guests_log_has_what_became_of_the_page() {
    let log = logs()
        .into_iter()
        .find(|log| log.ends_with("guest-6.12.log"))
        .unwrap();
    let text = text(&decode(&[log.to_str().unwrap()], b""));
    assert!(
        text.contains("recovery action for dirty LRU page: Recovered (line 9)"),
        "{text}"
    );
    assert!(text.contains("of the boot before (BERT)"), "{text}");
}

#[test]
fn text_for_a_pipe_has_no_colour_and_fits_80_columns() {
    let mut firmware_text = record();
    // An escape sequence where firmware puts a name.
    firmware_text[180..184].copy_from_slice(b"\x1b[2J");
    let text = text(&decode(&["-"], &firmware_text));
    assert!(text.contains("?[2J"), "{text}");
    assert!(!text.contains('\x1b'));
    for line in text.lines().filter(|line| !line.contains('`')) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn the_json_is_what_the_document_says() {
    let mut bytes = [record(), record()].concat();
    bytes.truncate(bytes.len() - 1);
    let mut report = json(&decode(&["--json", "-"], &bytes));
    // Its form is that of a record, which is documented elsewhere.
    let data = report["inputs"][0]["items"][0]["data"].take();
    assert!(data["header"].is_object());
    documented::check_documented(DOCUMENT, &report);
    assert_eq!(report["schema"], "pagemend.decode/1");
}
