//! Every reader of pagemend-cper on any bytes: none may panic, and what is read survives being written.
//! `cargo +nightly fuzz run decode`, in the workspace's root.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pagemend_cper::acpi::Table;
use pagemend_cper::guid::section_type;
use pagemend_cper::json::{
    record_from_json, record_to_json, section_from_json, section_to_json, status_from_json,
    status_to_json,
};
use pagemend_cper::linux::reaction;
use pagemend_cper::log::{self, Report};
use pagemend_cper::record::{Record, RecordBuilder};
use pagemend_cper::section::Section;
use pagemend_cper::status::StatusBlock;

fuzz_target!(|bytes: &[u8]| {
    // Most inputs are no record at all: the first byte says what they are to be read as.
    let Some((form, bytes)) = bytes.split_first() else {
        return;
    };
    match form % 5 {
        0 => record(bytes),
        1 => status_block(bytes),
        2 => section(bytes),
        3 => table(bytes),
        _ => kernel_log(bytes),
    }
});

fn record(bytes: &[u8]) {
    let Ok(record) = Record::read(bytes) else {
        return;
    };
    let written = RecordBuilder::from(&record).build();
    // Sections may lie on each other, so that a small record is a large one when they are taken apart.
    if let Some(written) = written.filter(|written| written.len() < 1 << 20) {
        let again = Record::read(&written).expect("what was written is read");
        assert_eq!(again.sections().len(), record.sections().len());
        let json = record_to_json(&again);
        let builder = record_from_json(&json).expect("what JSON says of a record is one");
        let bytes = builder.build().expect("it is no larger than it was");
        let json = record_to_json(&Record::read(&bytes).expect("it is read"));
        let again = record_from_json(&json).expect("JSON is read");
        assert_eq!(again.build(), Some(bytes));
    }
}

fn status_block(bytes: &[u8]) {
    let Ok(block) = StatusBlock::read(bytes) else {
        return;
    };
    let _ = block.check();
    for entry in block.entries().flatten() {
        let _ = reaction(block.header().severity(), &entry);
    }
    let json = status_to_json(&block);
    status_from_json(&json).expect("what JSON says of a block is one");
}

fn section(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    let names = section_type::NAMES;
    let (guid, _) = names[usize::from(*kind) % names.len()];
    let section = Section::read(guid, bytes);
    let json = section_to_json(&section, bytes);
    let again = section_from_json(&json).expect("what JSON says of a section is one");
    if section.is_ok() {
        Section::read(guid, &again).expect("and of the same type");
    }
}

fn table(bytes: &[u8]) {
    // A table whose sum is wrong is refused before anything else is looked at.
    let mut bytes = bytes.to_vec();
    if let Some(checksum) = bytes.get_mut(9) {
        *checksum = 0;
        let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        bytes[9] = sum.wrapping_neg();
    }
    match Table::read(&bytes) {
        Ok(Table::Hest(hest)) => drop(hest.sources().count()),
        Ok(Table::Erst(table) | Table::Einj(table)) => {
            for instruction in table.instructions {
                let _ = (
                    table.action_name(instruction),
                    table.instruction_name(instruction),
                );
            }
        }
        _ => {}
    }
}

fn kernel_log(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for logged in log::read(&text).0 {
        if let Report::Block { block, .. } = logged.report
            && let Some(bytes) = block.build()
        {
            let block = StatusBlock::read(&bytes).expect("what was written is read");
            block.check().expect("and agrees with itself");
        }
    }
}
