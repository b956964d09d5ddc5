//! The real program on machine-check registers, as logs and tools print them and as people type them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/decode.rs"]
mod decode;
#[path = "common/documented.rs"]
mod documented;

use std::path::Path;

use decode::decode;
use pagemend::guest::x86::{MachineCheck, Severity, Vendor, explain};
use pagemend::{Cause, Gpa, Ledger, Timestamp};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/decode.md");

fn text(arguments: &[&str], input: &str) -> String {
    let output = decode(arguments, input);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(input: &str) -> Value {
    serde_json::from_slice(&decode(&["--json", "-"], input).stdout).unwrap()
}

/// What is said of a sample, with its line breaks taken out.
fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let text = text(&[path.join(name).to_str().unwrap()], "");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_sample_is_explained_so_that_one_can_act() {
    for (name, parts) in [
        (
            "intel-load.log",
            &[
                "Machine check, bank 1 (line 1)",
                "By Intel's rules: uncorrected, action required",
                "data load: data read, data, level 0",
                "Code 0x10,",
                "physical 0x12c3f5040, exact to 2^6 bytes",
                "VAL UC EN MISCV ADDRV S AR RIPV EIPV MCIP LMCES",
                "takes the page at 0x12c3f5000 out of use",
                "recovery action for dirty LRU page: Recovered (line 6)",
                "Do data was lost",
            ][..],
        ),
        (
            "amd-deferred.log",
            &[
                "Machine check, bank 9 (line 3)",
                "By AMD's rules: deferred",
                "physical 0x40002000",
                "VAL EN MISCV ADDRV DEFERRED POISON",
                "takes the page at 0x40002000 out of use",
            ],
        ),
        (
            "rasdaemon.txt",
            &[
                "By Intel's rules: corrected",
                "memory controller: read, channel 1",
                "3 corrected errors",
                "another error came",
                "nothing was lost",
            ],
        ),
        (
            "mcelog.txt",
            &[
                "Machine check, bank 10 (line 3)",
                "uncorrected, no action required",
                "found by memory scrubbing",
                "physical 0x40002000, exact to 2^12 bytes",
            ],
        ),
        (
            "registers.txt",
            &[
                "Machine check, bank 9 (line 1)",
                "By Intel's rules: uncorrected, action required",
                "By AMD's rules: uncorrected",
                "Machine check, bank 0 (line 3)",
                "By AMD's rules: fatal",
                "translation lookaside buffer: data, level 1",
                "Linux panics",
            ],
        ),
        (
            "tracepoint.txt",
            &[
                "By AMD's rules: deferred",
                "physical 0x40002000, exact to 2^12 bytes",
            ],
        ),
    ] {
        let told = sample(name);
        for part in parts {
            assert!(told.contains(part), "{name}: {part} is missing in:\n{told}");
        }
    }
}

#[test]
fn a_reading_is_the_librarys_own() {
    let gpa = Gpa::new(0x4000_2000);
    let record = MachineCheck::action_required(Vendor::Intel, 9, gpa, false);
    assert_eq!(
        explain(Vendor::Intel, &record).severity,
        Severity::ActionRequired
    );
    let MachineCheck {
        bank,
        status,
        addr,
        misc,
        mcg_status,
    } = record;
    let input = format!(
        "vendor=intel bank={bank} status={status:#x} addr={addr:#x} misc={misc:#x} mcg_status={mcg_status:#x}"
    );
    let report = json(&input);
    let item = &report["inputs"][0]["items"][0];
    assert_eq!(item["kind"], "machine-check");
    assert_eq!(item["line"], 1);
    assert_eq!(item["parts"].as_array().unwrap().len(), 1);
    assert_eq!(item["parts"][0]["address"], gpa.get());
    documented::check_documented(DOCUMENT, &report);
}

#[test]
fn a_ledger_names_the_frame() {
    let mut ledger = Ledger::new();
    let time = Timestamp::from_millis(1_763_643_600_000).unwrap();
    ledger.insert(Gpa::new(0x4000_2000), Cause::ActionOptional, time);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    std::fs::write(&path, ledger.to_bytes()).unwrap();
    let arguments = ["--ledger", path.to_str().unwrap(), "-"];
    let told = text(
        &arguments,
        "vendor=amd status=0x9c00180000000000 addr=0x40002fff",
    );
    assert!(
        told.contains("0x40002000 is lost, found by a scrubber"),
        "{told}"
    );
}

#[test]
fn an_address_that_is_not_physical_is_not_taken_for_one() {
    // Address mode 1: linear.
    let told = text(
        &["-"],
        "vendor=intel status=0xbd80000000000134 addr=0x40002000 misc=0x4c mcg_status=7",
    );
    assert!(told.contains("0x40002000, a linear address"), "{told}");
    assert!(!told.contains("takes the page"), "{told}");
}

#[test]
fn a_value_that_is_none_is_damage_and_no_status_is_nothing() {
    let output = decode(&["-"], "bank=9 status=0xbd80000000000134 addr=here");
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        told.contains("addr is no number of 64 bits: \"here\""),
        "{told}"
    );
    assert_eq!(decode(&["-"], "bank=9 addr=0x1000").status.code(), Some(3));
}

#[test]
fn registers_have_no_bytes() {
    let output = decode(&["--to", "cper", "-"], "status=0xbd80000000000134");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"");
}
