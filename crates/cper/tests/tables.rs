//! Tables, in the opinion of others: `acpi_tables`, which writes them, and `iasl`, which reads them and
//! writes samples of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::{Aml, hest as theirs};
use pagemend_cper::acpi::bert::bert;
use pagemend_cper::acpi::hest::{
    GenericSource, GenericSource2, HestBuilder, Notification, NotificationKind, Source,
};
use pagemend_cper::acpi::table::Origin;
use pagemend_cper::acpi::{Table, TableHeader};
use pagemend_cper::error::Reason;
use proptest::prelude::*;
use tempfile::TempDir;

const ORIGIN: Origin = Origin {
    oem_id: *b"PAGEMD",
    oem_table_id: *b"PAGEMEND",
    oem_revision: 1,
};

fn all_kinds() -> impl Iterator<Item = NotificationKind> {
    (0..12).map(|number| NotificationKind::of(number).unwrap())
}

/// A table with a source of either version for every kind of notification.
fn hest() -> Vec<u8> {
    let mut builder = HestBuilder::new();
    for (id, kind) in (0..).zip(all_kinds()) {
        let address = 0x1000 + u64::from(id) * 0x100;
        let source = GenericSource::new(id, address, 1024, Notification::new(kind, 1000));
        builder.generic(&source);
        let source = GenericSource {
            source_id: (id + 100).into(),
            ..source
        };
        builder.generic2(&GenericSource2::new(source, address + 8));
    }
    builder.build(&ORIGIN)
}

#[test]
fn a_hest_is_read_as_it_was_written() {
    let bytes = hest();
    let Table::Hest(hest) = Table::read(&bytes).unwrap() else {
        panic!("no HEST");
    };
    let sources: Vec<_> = hest.sources().map(Result::unwrap).collect();
    assert_eq!((hest.count(), sources.len()), (24, 24));
    for (pair, kind) in sources.chunks(2).zip(all_kinds()) {
        let [Source::Generic(first), Source::Generic2(second)] = pair else {
            panic!("{pair:?}");
        };
        assert_eq!(first.notification.kind(), Some(kind));
        assert_eq!(second.base.notification.kind(), Some(kind));
        assert_eq!(second.read_ack_preserve.get(), u64::MAX - 1);
    }
}

#[test]
fn a_bert_is_read_as_it_was_written() {
    let bytes = bert(&ORIGIN, 0x7_0000_0000, 4096);
    let Table::Bert(bert) = Table::read(&bytes).unwrap() else {
        panic!("no BERT");
    };
    assert_eq!(bert.region.address.get(), 0x7_0000_0000);
    assert_eq!(bert.region.length.get(), 4096);
}

#[test]
fn a_table_that_was_changed_is_found_by_its_sum() {
    let mut bytes = hest();
    bytes[50] ^= 1;
    let error = Table::read(&bytes).unwrap_err();
    assert!(matches!(error.reason, Reason::Checksum { .. }), "{error}");
    let cut = Table::read(&bytes[..100]).unwrap_err();
    assert_eq!(cut.offset, 4);
}

proptest! {
    #[test]
    fn no_damage_to_a_table_makes_a_reader_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        other in prop::sample::select(vec![*b"HEST", *b"BERT", *b"ERST", *b"EINJ"]),
    ) {
        let mut bytes = hest();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes[..4].copy_from_slice(&other);
        bytes[9] = 0;
        bytes[9] = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
        if let Ok(table) = Table::read(&bytes) {
            match table {
                Table::Hest(hest) => drop(hest.sources().count()),
                Table::Erst(table) | Table::Einj(table) => {
                    for instruction in table.instructions {
                        let _ = table.action_name(instruction);
                        let _ = table.instruction_name(instruction);
                    }
                }
                _ => {}
            }
        }
    }
}

/// What follows the header's checksum and before its creator, and what follows the header.
fn without_creator(table: &[u8]) -> (&[u8], &[u8]) {
    (&table[10..28], &table[size_of::<TableHeader>()..])
}

fn written(table: &impl Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

#[test]
fn acpi_tables_writes_the_same_bert() {
    let ours = bert(&ORIGIN, 0x7_0000_0000, 4096);
    let theirs = acpi_tables::bert::BERT::new(*b"PAGEMD", *b"PAGEMEND", 1, 4096, 0x7_0000_0000);
    assert_eq!(without_creator(&ours), without_creator(&written(&theirs)));
}

#[test]
fn acpi_tables_writes_the_same_hest() {
    let memory = |address| {
        GAS::new(
            AddressSpace::SystemMemory,
            64,
            0,
            AccessSize::QwordAccess,
            address,
        )
    };
    let kinds = [
        (NotificationKind::Polled, theirs::NotificationType::Polled),
        (NotificationKind::Sci, theirs::NotificationType::Sci),
        (NotificationKind::Nmi, theirs::NotificationType::Nmi),
    ];
    let mut ours = HestBuilder::new();
    let mut theirs = theirs::HEST::new(*b"PAGEMD", *b"PAGEMEND", 1);
    for (id, (kind, their_kind)) in (0..).zip(kinds) {
        let source = GenericSource::new(id, 0x1000, 1024, Notification::new(kind, 1000));
        ours.generic(&source);
        let their_source = theirs::GenericHardwareSource::new(id, theirs::EnabledStatus::Enabled)
            .num_records(1)
            .max_sections(1)
            .max_raw_length(1024)
            .error_status_address(memory(0x1000))
            .notification(theirs::NotificationStructure::new(their_kind).poll_interval_ms(1000))
            .error_status_block_len(1024);
        theirs.add_structure(their_source);
    }
    let (ours, theirs) = (ours.build(&ORIGIN), written(&theirs));
    assert_eq!(without_creator(&ours), without_creator(&theirs));
}

/// Runs iasl in a directory; `None`, with a line that says so, where it is not installed.
fn iasl(directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("iasl")
        .args(arguments)
        .current_dir(directory)
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: iasl is not installed; `apt-get install acpica-tools` provides it");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    Some(text.into_owned())
}

/// What iasl makes of a table: its disassembly.
fn disassemble(name: &str, bytes: &[u8]) -> Option<String> {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join(format!("{name}.dat")), bytes).unwrap();
    let said = iasl(directory.path(), &["-d", &format!("{name}.dat")])?;
    for complaint in ["rror", "arning", "nvalid", "nknown"] {
        let line = said
            .lines()
            .find(|line| line.contains(complaint) && !line.contains("Error Source"));
        assert_eq!(line, None, "{said}");
    }
    Some(std::fs::read_to_string(directory.path().join(format!("{name}.dsl"))).unwrap())
}

#[test]
fn iasl_disassembles_our_hest_without_complaint() {
    let Some(text) = disassemble("hest", &hest()) else {
        return;
    };
    assert_eq!(text.matches("Subtable Type : 0009").count(), 12);
    assert_eq!(text.matches("Subtable Type : 000A").count(), 12);
    assert_eq!(
        text.matches("Read Ack Preserve : FFFFFFFFFFFFFFFE").count(),
        12
    );
    assert!(!text.contains("Incorrect checksum"), "{text}");
}

#[test]
fn iasl_disassembles_our_bert_without_complaint() {
    let Some(text) = disassemble("bert", &bert(&ORIGIN, 0x7_0000_0000, 4096)) else {
        return;
    };
    assert!(text.contains("0000000700000000"), "{text}");
}

/// A table that iasl makes of its own template: every kind of entry that it knows.
fn template(name: &str) -> Option<Vec<u8>> {
    let directory = TempDir::new().unwrap();
    iasl(directory.path(), &["-T", name])?;
    let source: Vec<PathBuf> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let file = source[0].file_name().unwrap().to_str().unwrap();
    iasl(directory.path(), &[file])?;
    let binary = source[0].with_extension("aml");
    Some(std::fs::read(binary).unwrap())
}

#[test]
fn the_tables_that_iasl_writes_are_read_to_their_ends() {
    for name in ["HEST", "BERT", "ERST", "EINJ"] {
        let Some(mut bytes) = template(name) else {
            return;
        };
        // Some of iasl's templates count other than they have: where the count is, and what it should be.
        let counts = [("HEST", 36, 8), ("EINJ", 44, 8)];
        for (_, place, count) in counts.into_iter().filter(|(of, ..)| *of == name) {
            let change = bytes[place].wrapping_sub(count);
            bytes[place] = count;
            bytes[9] = bytes[9].wrapping_add(change);
        }
        match Table::read(&bytes).unwrap() {
            Table::Hest(hest) => {
                let kinds: Vec<_> = hest
                    .sources()
                    .map(|source| source.unwrap().name())
                    .collect();
                assert_eq!(kinds.len(), hest.count() as usize);
                assert!(!kinds.contains(&"unknown"), "{kinds:?}");
                assert_eq!(kinds.len(), 8, "{kinds:?}");
            }
            Table::Erst(table) | Table::Einj(table) => {
                assert!(!table.instructions.is_empty());
                for instruction in table.instructions {
                    // ERST has no action 12, and iasl's template shows that too.
                    let known = table.action_name(instruction).is_some();
                    assert!(known || instruction.action == 12, "{instruction:?}");
                    assert_ne!(table.instruction_name(instruction), None, "{instruction:?}");
                }
            }
            table => assert_eq!(table.header().signature, *b"BERT"),
        }
    }
}
