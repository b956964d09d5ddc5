//! The reader of machine-check registers on any text: it may not panic, what it finds is explained,
//! and is found again in each notation.
//! `cargo +nightly fuzz run registers`, in the workspace's root. With `fuzz/corpus/registers` and
//! `crates/cli/tests/samples` behind it, if both are there, it need not guess words.
#![no_main]

#[path = "../../crates/guest/tests/registers/notations.rs"]
mod notations;

use libfuzzer_sys::fuzz_target;
use notations::every_notation;
use pagemend_guest::x86::{AddressMode, Vendor, explain, machine_checks};

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().count();
    for written in machine_checks(&text) {
        assert!((1..=lines).contains(&written.line));
        for vendor in [Vendor::Intel, Vendor::Amd] {
            let explanation = explain(vendor, &written.record);
            assert!(!explanation.to_string().is_empty());
            if let Some(mode) = AddressMode::of(vendor, &written.record) {
                assert!(!mode.to_string().is_empty());
            }
        }
        for (text, expected) in every_notation(&written) {
            assert_eq!(machine_checks(&text), [expected], "{text}");
        }
    }
});
