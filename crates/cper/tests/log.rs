//! Kernel logs: what the kernel printed of a record is a record again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pagemend_cper::guid::section_type;
use pagemend_cper::log::{Report, read};
use pagemend_cper::section::Section;
use pagemend_cper::section::memory::Bank;
use pagemend_cper::severity::Severity;
use pagemend_cper::status::StatusBlock;
use proptest::prelude::*;

/// The bytes of the only error in a log, and the lines that it does not tell.
fn only_block(text: &str) -> (Vec<u8>, usize) {
    let (logged, _) = read(text);
    let [one] = &logged[..] else {
        panic!("{logged:?}");
    };
    let Report::Block { block, untold } = &one.report else {
        panic!("{one:?}");
    };
    (block.build().unwrap(), untold.len())
}

#[test]
fn a_memory_error_of_an_older_kernel_is_read_with_all_its_fields() {
    let text = include_str!("samples/memory-6.1.log");
    let (bytes, untold) = only_block(text);
    assert_eq!(untold, 0);
    let block = StatusBlock::read(&bytes).unwrap();
    assert_eq!(block.header().severity(), Severity::Recoverable);
    let entry = block.entries().next().unwrap().unwrap();
    assert_eq!(entry.header.fru_text(), Some(&b"DIMM_B2"[..]));
    let timestamp = entry.timestamp().unwrap();
    assert!(timestamp.is_precise());
    assert_eq!(
        timestamp.civil().unwrap().to_string(),
        "2026-11-21T09:30:00"
    );
    let Ok(Section::Memory(memory)) = entry.section else {
        panic!("{entry:?}");
    };
    assert_eq!(memory.physical_address(), Some(0x4000_2000));
    assert_eq!(memory.physical_address_mask(), Some(!0xfff));
    assert_eq!(
        (memory.node(), memory.card(), memory.module()),
        (Some(0), Some(1), Some(2))
    );
    assert_eq!(memory.rank(), Some(1));
    assert_eq!(memory.bank(), Some(Bank::Whole(0x203)));
    assert_eq!(
        (memory.row(), memory.column()),
        (Some(0x1_2345), Some(1032))
    );
    assert_eq!(memory.error_type(), Some(3));
    assert_eq!(memory.error_status().unwrap().error_type(), 4);
    assert_eq!(memory.module_handle(), Some(0x1100));
}

#[test]
fn a_guests_log_has_the_error_and_what_became_of_the_page() {
    let (logged, fates) = read(include_str!("samples/guest-6.12.log"));
    assert_eq!(logged.len(), 2);
    assert_eq!((logged[0].sequence, logged[0].source), (Some(1), Some(0)));
    assert_eq!(logged[0].line, 2);
    assert!(!logged[0].before_boot);
    assert!(logged[1].before_boot);
    assert_eq!(fates.len(), 1);
    assert_eq!(fates[0].address, 0x4000_2000);
    assert!(fates[0].text.contains("Recovered"), "{fates:?}");
}

#[test]
fn an_arm_error_is_read_with_its_addresses() {
    let (bytes, _) = only_block(include_str!("samples/arm.log"));
    let block = StatusBlock::read(&bytes).unwrap();
    let entry = block.entries().next().unwrap().unwrap();
    let Ok(Section::Arm(arm)) = entry.section else {
        panic!("{entry:?}");
    };
    assert_eq!(arm.header.midr.get(), 0x481f_d010);
    assert_eq!(arm.header.mpidr(), Some(0x8108_0000));
    assert_eq!(arm.header.is_running(), Some(true));
    assert_eq!(arm.infos[0].multiple_error(), Some(0));
    assert_eq!(arm.infos[0].physical_address(), Some(0x5_1234_5000));
}

#[test]
fn a_section_that_the_kernel_dumped_is_its_bytes() {
    let (bytes, untold) = only_block(include_str!("samples/unknown.log"));
    assert_eq!(untold, 0);
    let block = StatusBlock::read(&bytes).unwrap();
    let entry = block.entries().next().unwrap().unwrap();
    assert_eq!(entry.header.section_type, section_type::CXL_GENERAL_MEDIA);
    assert_eq!(entry.bytes.len(), 0x18);
    assert_eq!(entry.bytes[..4], [0x90, 0, 0, 0]);
    assert_eq!(entry.bytes[20..], [0x86, 0x80, 0x93, 0x0d]);
}

#[test]
fn sections_that_are_printed_in_part_keep_their_lines() {
    let (logged, _) = read(
        "{3}[Hardware Error]: event severity: corrected\n\
         {3}[Hardware Error]:  Error 0, type: corrected\n\
         {3}[Hardware Error]:   section_type: PCIe error\n\
         {3}[Hardware Error]:   port_type: 4, root port\n\
         usb 1-1: reset\n\
         {3}[Hardware Error]:   command: 0x0547, status: 0x4010\n",
    );
    let Report::Block { untold, .. } = &logged[0].report else {
        panic!("{logged:?}");
    };
    let lines: Vec<_> = untold
        .iter()
        .map(|(entry, line)| (*entry, line.as_str()))
        .collect();
    let expected = [
        (0, "port_type: 4, root port"),
        (0, "command: 0x0547, status: 0x4010"),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn the_lines_of_a_machine_check_belong_together() {
    let (logged, _) = read(
        "[ 1.0] mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 9: bd000000000000c0\n\
         [ 1.0] mce: [Hardware Error]: TSC 0 ADDR 40002000 MISC 8c \n\
         [ 2.0] mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 9: bd000000000000c0\n",
    );
    let reports: Vec<_> = logged.iter().map(|logged| &logged.report).collect();
    let [Report::MachineCheck(first), Report::MachineCheck(second)] = &reports[..] else {
        panic!("{reports:?}");
    };
    assert_eq!((first.len(), second.len()), (2, 1));
    assert_eq!(first[1], "TSC 0 ADDR 40002000 MISC 8c");
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(
        lines in prop::collection::vec(
            prop_oneof![
                "(\\{[0-9]{1,12}\\})?\\[Hardware Error\\]: {0,3}\\PC{0,40}",
                "\\{1\\}\\[Hardware Error\\]:   (section_type: (memory|ARM processor) error|section type: unknown, .{0,40})",
                "\\{1\\}\\[Hardware Error\\]:   (node|row|bank_group|chip_id|bank|column):? ?[0-9]{1,20}( (row|rank|x): ?[0-9]{1,20})?",
                "\\{1\\}\\[Hardware Error\\]:   (physical_address|error_type|error_status|num errors|MIDR|Error info structure 0): 0x[0-9a-f]{0,20}",
                "\\{1\\}\\[Hardware Error\\]:  Error 0, type: (fatal|x)",
                "\\{1\\}\\[Hardware Error\\]:   0000000[08]: [0-9a-f]{8} [0-9a-f]{0,8}  .{0,4}",
                "\\{1\\}\\[Hardware Error\\]: event severity: (fatal|corrected)",
                "Memory failure: 0x[0-9a-f]{1,20}: .{0,10}",
            ],
            0..40,
        ),
    ) {
        let (logged, _) = read(&lines.join("\n"));
        for logged in logged {
            if let Report::Block { block, .. } = logged.report {
                let bytes = block.build().unwrap();
                StatusBlock::read(&bytes).unwrap().check().unwrap();
            }
        }
    }
}
