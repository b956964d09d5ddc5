//! The tables, in the opinion of others: those in guest memory are read back, and `iasl`
//! disassembles each.

use std::path::Path;
use std::process::Command;

use pagemend::{AddressRange, GpaRange};
use pagemend_cper::acpi::Table;
use pagemend_cper::acpi::hest::{NotificationKind, Source};

use super::*;

fn firmware() -> GpaRange {
    let low = AddressRange::new(Gpa::new(0), 512 << 20).unwrap();
    layout::firmware(low)
}

fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("dsdt", bytes_of(&dsdt::dsdt(4))),
        ("facp", bytes_of(&fadt(0xe_0040))),
        ("apic", bytes_of(&madt(4))),
        ("hest", apei::hest(firmware())),
        ("bert", apei::bert(firmware())),
    ]
}

#[test]
fn the_guest_finds_one_polled_source_and_the_boot_errors_in_firmwares_memory() {
    let hest = apei::hest(firmware());
    let Table::Hest(hest) = Table::read(&hest).unwrap() else {
        panic!("no HEST");
    };
    let sources: Vec<_> = hest.sources().map(Result::unwrap).collect();
    let [Source::Generic2(source)] = sources[..] else {
        panic!("{sources:?}");
    };
    let polled = source.base.notification;
    assert_eq!(polled.kind(), Some(NotificationKind::Polled));
    assert_eq!(polled.poll_interval.get(), 1000);
    assert_eq!(source.base.status_length.get(), 1024);
    let place = apei::source(firmware());
    assert_eq!(source.read_ack.address.get(), place.read_ack().get());

    let bert = apei::bert(firmware());
    let Table::Bert(bert) = Table::read(&bert).unwrap() else {
        panic!("no BERT");
    };
    let region = Gpa::new(bert.region.address.get());
    let region = AddressRange::new(region, bert.region.length.get().into()).unwrap();
    assert!(firmware().covers(&region));
    assert!(!region.contains(place.block()));
}

/// What iasl makes of a table: its disassembly; `None`, with a line that says so, where it is not
/// installed.
fn disassemble(directory: &Path, name: &str, bytes: &[u8]) -> Option<String> {
    std::fs::write(directory.join(format!("{name}.dat")), bytes).unwrap();
    let Some(said) = iasl(directory, &["-d", &format!("{name}.dat")]) else {
        eprintln!("skipped: iasl is not installed; `apt-get install acpica-tools` provides it");
        return None;
    };
    for complaint in ["rror", "arning", "nvalid", "nknown"] {
        let mut lines = said.lines();
        assert!(!lines.any(|line| line.contains(complaint)), "{said}");
    }
    Some(std::fs::read_to_string(directory.join(format!("{name}.dsl"))).unwrap())
}

fn iasl(directory: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("iasl");
    let output = command
        .args(arguments)
        .current_dir(directory)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    Some(text.into_owned())
}

#[test]
fn iasl_disassembles_each_table_without_complaint() {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes) in all() {
        let Some(text) = disassemble(directory.path(), name, &bytes) else {
            return;
        };
        assert!(!text.contains("Incorrect checksum"), "{text}");
    }
}

#[test]
fn iasl_compiles_what_it_has_disassembled_of_the_dsdt() {
    let directory = tempfile::tempdir().unwrap();
    let table = bytes_of(&dsdt::dsdt(4));
    let Some(text) = disassemble(directory.path(), "dsdt", &table) else {
        return;
    };
    assert!(text.contains("_OSC, 4, Serialized)"), "{text}");
    assert!(
        text.contains("0811b06e-4a27-44f9-8d60-3cbbc22e7b48"),
        "{text}"
    );
    let said = iasl(directory.path(), &["-p", "again", "dsdt.dsl"]).unwrap();
    assert!(said.contains("0 Errors, 0 Warnings"), "{said}");
}
