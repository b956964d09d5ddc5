//! What a Linux kernel logged of firmware error records, made records again.
//!
//! The kernel prints a status block line by line (drivers/firmware/efi/cper.c, cper-arm.c), and often
//! these lines are all that is left of it. Read back, they are a status block like any other: memory and
//! ARM sections by their fields, sections that the kernel does not know by the bytes that it dumped. Of
//! the other sections it prints fields here and there; those are kept as they were printed.

mod entry;
mod line;

use alloc::string::String;
use alloc::vec::Vec;

use entry::EntryText;
use line::Line;

use crate::severity::Severity;
use crate::status::StatusBlockBuilder;
use crate::time::Timestamp;

/// An error that the kernel logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// The first line that it comes from, counted from 1.
    pub line: usize,
    /// The kernel's own number of it, as in `{4}[Hardware Error]`.
    pub sequence: Option<u32>,
    /// The source in the HEST that reported it.
    pub source: Option<u32>,
    /// Whether it happened before the last boot (BERT).
    pub before_boot: bool,
    /// What was reported.
    pub report: Report,
}

/// What was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Report {
    /// A status block, as far as the log tells it, and the lines of sections that are not told by it.
    Block {
        /// The block.
        block: StatusBlockBuilder,
        /// Lines, each with the number of its entry.
        untold: Vec<(usize, String)>,
    },
    /// A machine check: its lines as they were printed.
    MachineCheck(Vec<String>),
}

/// What the kernel did about a page: a line of `memory_failure()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageFate {
    /// The line that it comes from, counted from 1.
    pub line: usize,
    /// Physical address of the page, in bytes.
    pub address: u64,
    /// What was done.
    pub text: String,
}

/// Whether text has lines of hardware errors.
pub fn is_log(text: &str) -> bool {
    text.contains(line::MARK)
}

/// The errors that a log tells of, in its order, and what the kernel did about pages. Lines that are
/// not about hardware errors are passed over.
pub fn read(text: &str) -> (Vec<Logged>, Vec<PageFate>) {
    let mut reader = Reader::default();
    let mut fates = Vec::new();
    for (place, text) in text.lines().enumerate() {
        let number = place + 1;
        match line::read(text) {
            Line::Error { sequence, text } => reader.error_line(number, sequence, text),
            Line::PreviousBoot => {
                reader.finish();
                reader.before_boot = true;
            }
            Line::PageFate { address, text } => fates.push(PageFate {
                line: number,
                address,
                text: text.into(),
            }),
            Line::Other => {}
        }
    }
    reader.finish();
    (reader.logged, fates)
}

/// A status block of which lines are still coming.
struct Open {
    line: usize,
    sequence: Option<u32>,
    source: Option<u32>,
    severity: Option<Severity>,
    /// Of the entry whose lines come next.
    timestamp: Option<Timestamp>,
    entries: Vec<EntryText>,
}

#[derive(Default)]
struct Reader {
    logged: Vec<Logged>,
    open: Option<Open>,
    before_boot: bool,
}

impl Reader {
    fn error_line(&mut self, line: usize, sequence: Option<u32>, text: &str) {
        const SOURCE: &str = "Hardware error from APEI Generic Hardware Error Source: ";
        if let Some(number) = text.strip_prefix(SOURCE) {
            self.open(line, sequence);
            self.before_boot = false;
            if let Some(open) = &mut self.open {
                open.source = number.trim().parse().ok();
            }
        } else if let Some(severity) = text.strip_prefix("event severity: ") {
            let expected = |open: &Open| open.severity.is_none() && open.sequence == sequence;
            if !self.open.as_ref().is_some_and(expected) {
                self.open(line, sequence);
            }
            if let Some(open) = &mut self.open {
                open.severity = Some(line::severity(severity));
            }
        } else if is_machine_check(text) {
            self.machine_check(line, text);
        } else if let Some(open) = &mut self.open
            && open.sequence == sequence
        {
            if let Some(timestamp) = line::timestamp(text) {
                open.timestamp = Some(timestamp);
            } else if text.trim_start().starts_with("Error ")
                && let Some((_, severity)) = text.split_once(", type: ")
            {
                let severity = line::severity(severity);
                let timestamp = open.timestamp.take();
                open.entries.push(EntryText::new(severity, timestamp));
            } else if let Some(entry) = open.entries.last_mut() {
                entry.line(text);
            }
        }
    }

    fn open(&mut self, line: usize, sequence: Option<u32>) {
        self.finish();
        self.open = Some(Open {
            line,
            sequence,
            source: None,
            severity: None,
            timestamp: None,
            entries: Vec::new(),
        });
    }

    fn machine_check(&mut self, line: usize, text: &str) {
        self.finish();
        let starts = text.contains("Machine Check") || is_edac_status(text);
        if !starts
            && let Some(Logged {
                report: Report::MachineCheck(lines),
                ..
            }) = self.logged.last_mut()
        {
            lines.push(text.into());
            return;
        }
        self.logged.push(Logged {
            line,
            sequence: None,
            source: None,
            before_boot: false,
            report: Report::MachineCheck([text.into()].into()),
        });
    }

    fn finish(&mut self) {
        let Some(open) = self.open.take() else {
            return;
        };
        let worst = open.entries.first().map(|entry| entry.severity);
        let severity = open.severity.or(worst).unwrap_or(Severity::Recoverable);
        let mut block = StatusBlockBuilder::new(severity);
        let mut untold = Vec::new();
        for (place, entry) in open.entries.into_iter().enumerate() {
            let lines = entry.add_to(&mut block);
            untold.extend(lines.into_iter().map(|line| (place, line)));
        }
        self.logged.push(Logged {
            line: open.line,
            sequence: open.sequence,
            source: open.source,
            before_boot: self.before_boot,
            report: Report::Block { block, untold },
        });
    }
}

/// Lines of arch/x86/kernel/cpu/mce/core.c, `__print_mce`, and of drivers/edac/mce_amd.c.
fn is_machine_check(text: &str) -> bool {
    let starts = [
        "TSC ",
        "RIP ",
        "PROCESSOR ",
        "Machine check: ",
        "PPIN: ",
        "Error Addr: ",
        "IPID: ",
        "cache level: ",
    ];
    text.contains("Machine Check")
        || is_edac_status(text)
        || starts.iter().any(|start| text.starts_with(start))
}

/// `CPU:0 (17:31:0) MC9_STATUS[-|-|MiscV|…]: 0x9c00180000000000`.
fn is_edac_status(text: &str) -> bool {
    text.starts_with("CPU:") && text.contains("_STATUS[")
}
