//! One line of a kernel log.

use crate::severity::Severity;
use crate::time::Timestamp;

/// What the kernel puts before every line about a hardware error (include/linux/printk.h, `HW_ERR`).
pub(super) const MARK: &str = "[Hardware Error]:";

/// A line, as far as it is of interest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// A line about an error, with its indentation.
    Error {
        sequence: Option<u32>,
        text: &'a str,
    },
    /// What follows happened before the last boot.
    PreviousBoot,
    /// What became of a page.
    PageFate { address: u64, text: &'a str },
    /// Anything else.
    Other,
}

/// Reads a line of `dmesg`, `journalctl -k` or a console, whatever stands before the kernel's own text.
pub(super) fn read(text: &str) -> Line<'_> {
    if let Some((before, after)) = text.split_once(MARK) {
        return Line::Error {
            sequence: sequence(before),
            text: after.strip_prefix(' ').unwrap_or(after).trim_end(),
        };
    }
    if text.contains("BERT: Error records from previous boot") {
        return Line::PreviousBoot;
    }
    page_fate(text).unwrap_or(Line::Other)
}

/// The number in `{4}` at the end of what stands before the mark.
fn sequence(before: &str) -> Option<u32> {
    let (_, number) = before.strip_suffix('}')?.rsplit_once('{')?;
    number.parse().ok()
}

/// `Memory failure: 0x40002: recovery action for …`: a page frame number of 4 KiB pages.
fn page_fate(text: &str) -> Option<Line<'_>> {
    let (_, after) = text.split_once("Memory failure: 0x")?;
    let (frame, text) = after.split_once(": ")?;
    let frame = u64::from_str_radix(frame, 16).ok()?;
    Some(Line::PageFate {
        address: frame.checked_mul(4096)?,
        text: text.trim_end(),
    })
}

/// `precise tstamp: 2026-11-21 09:30:00`, or imprecise.
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    let (precision, moment) = text.trim_start().split_once(" tstamp: ")?;
    let civil = moment.trim_end().parse().ok()?;
    Timestamp::new(civil, precision == "precise")
}

/// A severity by the kernel's word for it.
pub(super) fn severity(word: &str) -> Severity {
    match word.trim() {
        "recoverable" => Severity::Recoverable,
        "fatal" => Severity::Fatal,
        "corrected" => Severity::Corrected,
        "info" => Severity::Informational,
        _ => Severity::Unknown(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_found_behind_any_prefix() {
        for prefix in [
            "",
            "[  705.032426] ",
            "Nov 21 09:30:00 host kernel: ",
            "<3>[1.0] ",
        ] {
            let line = alloc::format!("{prefix}{{4}}[Hardware Error]:  Error 0, type: fatal");
            let expected = Line::Error {
                sequence: Some(4),
                text: " Error 0, type: fatal",
            };
            assert_eq!(read(&line), expected);
        }
    }

    #[test]
    fn what_became_of_a_page_is_told_by_its_frame() {
        let line = "[ 9.1] Memory failure: 0x40002: recovery action for dirty LRU page: Recovered";
        let expected = Line::PageFate {
            address: 0x4000_2000,
            text: "recovery action for dirty LRU page: Recovered",
        };
        assert_eq!(read(line), expected);
        assert_eq!(read("Memory failure: 0xffffffffffffffff: x"), Line::Other);
        assert_eq!(read("Memory failure: x"), Line::Other);
    }
}
