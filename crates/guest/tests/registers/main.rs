//! The reader of machine-check registers on any text: it takes everything, explains what it takes,
//! and reads it again in each notation. How many cases are tried is set by `PROPTEST_CASES`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod notations;

use notations::every_notation;
use pagemend_guest::x86::{AddressMode, MachineCheck, Vendor, Written, explain, machine_checks};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn any_machine_check() -> impl Strategy<Value = Written> {
    let vendor = prop_oneof![Just(Vendor::Intel), Just(Vendor::Amd)];
    let place = (option::of(vendor), option::of(0u32..), option::of(0u8..));
    let registers = any::<(u64, u64, u64, u64)>();
    (place, registers).prop_map(
        |((vendor, cpu, bank), (status, addr, misc, mcg_status))| Written {
            line: 1,
            vendor,
            cpu,
            bank,
            record: MachineCheck {
                bank: bank.unwrap_or(0),
                status,
                addr,
                misc,
                mcg_status,
            },
            problem: None,
        },
    )
}

/// Text in which what the reader looks for is no rarity.
fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "\\PC{0,12}",
        "(status|addr|misc|bank|cpu|mcgstatus|Machine Check( Exception)?|MC[0-9]{1,3}(_STATUS\\[)?|vendor|PROCESSOR|MCGc/s|ADDR/MISC|cpu_type)\
         [=: ]{0,2}(0x)?[0-9a-f/+-]{0,18}",
        "[\n ]",
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.join(" "))
}

fn survives_each_notation(said: &Written) -> Result<(), TestCaseError> {
    for (text, expected) in every_notation(said) {
        prop_assert_eq!(machine_checks(&text), [expected], "{}", text);
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_machine_check_is_read_as_it_was_written_in_each_notation(said in any_machine_check()) {
        survives_each_notation(&said)?;
    }

    #[test]
    fn what_is_found_in_any_text_is_explained_and_survives_each_notation(text in any_text()) {
        let lines = text.lines().count();
        let found = machine_checks(&text);
        prop_assert!(found.is_sorted_by_key(|written| written.line));
        for written in found {
            prop_assert!((1..=lines).contains(&written.line));
            for vendor in [Vendor::Intel, Vendor::Amd] {
                prop_assert!(!explain(vendor, &written.record).to_string().is_empty());
                if let Some(mode) = AddressMode::of(vendor, &written.record) {
                    prop_assert!(!mode.to_string().is_empty());
                }
            }
            survives_each_notation(&written)?;
        }
    }
}
