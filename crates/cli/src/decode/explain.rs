//! What was found, as a report: parts with facts, and what follows from them.

use std::time::{Duration, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use pagemend::{Cause, Gpa, Ledger};
use pagemend_cper::acpi::Table;
use pagemend_cper::error::Error;
use pagemend_cper::guid::{Guid, notification_type, section_type};
use pagemend_cper::json::{record_to_json, status_to_json};
use pagemend_cper::linux::{Reaction, reaction};
use pagemend_cper::log::{Logged, PageFate, Report};
use pagemend_cper::record::Record;
use pagemend_cper::section::Section;
use pagemend_cper::severity::Severity;
use pagemend_cper::status::{DataEntry, StatusBlock};
use serde::Serialize;
use serde_json::Value;

use super::facts::{self, Fact, fact};
use super::machine_check;
use super::read::{Found, Kind, Place};
use super::tables;

/// One thing that was found.
#[derive(Serialize)]
pub(super) struct Item {
    kind: &'static str,
    offset: Option<usize>,
    line: Option<usize>,
    pub(super) title: String,
    pub(super) facts: Vec<Fact>,
    pub(super) parts: Vec<Part>,
    /// A record or a status block in its JSON form.
    data: Value,
}

/// A section of a record, an entry of a table.
#[derive(Serialize)]
pub(super) struct Part {
    pub(super) title: String,
    /// The physical address that failed, in bytes.
    pub(super) address: Option<u64>,
    pub(super) facts: Vec<Fact>,
    /// What is wrong with this part, if something is.
    pub(super) problem: Option<String>,
}

impl Part {
    pub(super) fn new(title: impl Into<String>, facts: Vec<Fact>) -> Self {
        Self {
            title: title.into(),
            address: None,
            facts,
            problem: None,
        }
    }
}

impl Item {
    pub(super) fn new(found: &Found, kind: &'static str, title: String) -> Self {
        let (offset, line) = match found.place {
            Place::Byte(offset) => (Some(offset), None),
            Place::Line(line) => (None, Some(line)),
        };
        Self {
            kind,
            offset,
            line,
            title,
            facts: Vec::new(),
            parts: Vec::new(),
            data: Value::Null,
        }
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.parts.iter().any(|part| part.problem.is_some())
    }

    /// Where it is in the input.
    pub(super) fn place(&self) -> String {
        match (self.offset, self.line) {
            (Some(offset), _) => format!("byte {offset}"),
            (_, Some(line)) => format!("line {line}"),
            _ => String::new(),
        }
    }

    /// Adds what the same log says became of the pages.
    pub(super) fn add_fates(&mut self, fates: &[PageFate]) {
        for part in &mut self.parts {
            let Some(address) = part.address else {
                continue;
            };
            let of_page = |fate: &&PageFate| fate.address / 4096 == address / 4096;
            for fate in fates.iter().filter(of_page) {
                let text = format!("{} (line {})", fate.text, fate.line);
                part.facts.push(fact("Outcome", text));
            }
        }
    }

    /// Puts what is to be done behind all that is known.
    pub(super) fn finish(&mut self) {
        for part in &mut self.parts {
            part.facts.sort_by_key(|fact| fact.name == "Do");
        }
    }

    /// Adds what a ledger says of the frames.
    pub(super) fn add_frames(&mut self, ledger: &Ledger) {
        for part in &mut self.parts {
            let Some(address) = part.address else {
                continue;
            };
            let frame = address & !4095;
            let text = match ledger.entry(Gpa::new(address)) {
                Some(entry) => {
                    let cause = match entry.loss.cause {
                        Cause::ActionRequired => "touched",
                        Cause::ActionOptional => "found by a scrubber",
                    };
                    let told = match &entry.told[..] {
                        [] => "told to nobody".to_owned(),
                        told => format!("told to {}", told.join(", ")),
                    };
                    let since = UNIX_EPOCH + Duration::from_nanos(entry.loss.time.nanos());
                    let since = format_rfc3339_seconds(since);
                    format!("{frame:#x} is lost, {cause}, since {since}, {told}")
                }
                None => format!("{frame:#x} is not lost by this ledger"),
            };
            part.facts.push(fact("Frame", text));
        }
    }
}

pub(super) fn explain(found: &Found) -> Item {
    match &found.kind {
        Kind::Record(bytes) => explain_record(found, bytes),
        Kind::Block { bytes, logged } => explain_block(found, bytes, logged.as_ref()),
        Kind::Table(bytes) => match Table::read(bytes) {
            Ok(table) => tables::explain(found, &table),
            Err(error) => damaged(found, "table", error),
        },
        Kind::MachineCheck { written, lines } => machine_check::explain(found, written, lines),
    }
}

fn damaged(found: &Found, kind: &'static str, error: Error) -> Item {
    let mut item = Item::new(found, kind, format!("Damaged {kind}"));
    let mut part = Part::new(kind, Vec::new());
    part.problem = Some(error.to_string());
    item.parts.push(part);
    item
}

fn explain_record(found: &Found, bytes: &[u8]) -> Item {
    let record = match Record::read(bytes) {
        Ok(record) => record,
        Err(error) => return damaged(found, "record", error),
    };
    let header = record.header();
    let title = format!("Record of a {} error", words(header.severity()));
    let mut item = Item::new(found, "record", title);
    let notification = header.notification_type;
    if notification != Guid::default() {
        let name = notification_type::name(notification);
        let name = name.map_or_else(|| notification.to_string(), str::to_owned);
        item.facts.push(fact("Notified", name));
    }
    if let Some(time) = header.timestamp().and_then(|time| time.civil()) {
        item.facts.push(fact("Time", time.to_string()));
    }
    for (bit, meaning) in [
        (1, "recovered by the operating system"),
        (2, "of an earlier boot"),
        (4, "simulated: injected for a test"),
    ] {
        if header.flags.get() & bit != 0 {
            item.facts.push(fact("Note", meaning));
        }
    }
    for section in record.sections() {
        let descriptor = section.descriptor;
        let severity = descriptor.severity();
        let mut part = section_part(descriptor.section_type, severity, &section.section);
        add_fru(&mut part, descriptor.fru_text(), descriptor.fru_id());
        part.facts.extend(advice(severity, &section.section));
        item.parts.push(part);
    }
    item.data = record_to_json(&record);
    item
}

fn explain_block(found: &Found, bytes: &[u8], logged: Option<&Logged>) -> Item {
    let block = match StatusBlock::read(bytes) {
        Ok(block) => block,
        Err(error) => return damaged(found, "status block", error),
    };
    let severity = block.header().severity();
    let title = match (block.is_read(), block.is_empty()) {
        (true, true) => "Status block that holds no error".to_owned(),
        (true, false) => format!(
            "Status block of a {} error that was read already",
            words(severity)
        ),
        (false, _) => format!("Status block of a {} error", words(severity)),
    };
    let mut item = Item::new(found, "status-block", title);
    if let Some(logged) = logged {
        if let Some(source) = logged.source {
            item.facts
                .push(fact("Source", format!("HEST source {source}")));
        }
        if logged.before_boot {
            item.facts.push(fact("Note", "of the boot before (BERT)"));
        }
    }
    let before_boot = logged.is_some_and(|logged| logged.before_boot);
    for entry in block.entries() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                let mut part = Part::new("Entry", Vec::new());
                part.problem = Some(error.to_string());
                item.parts.push(part);
                continue;
            }
        };
        item.parts
            .push(entry_part(severity, &entry, before_boot, logged.is_some()));
    }
    if let Some(Report::Block { untold, .. }) = logged.map(|logged| &logged.report) {
        for (place, line) in untold {
            if let Some(part) = item.parts.get_mut(*place) {
                part.facts.push(fact("Printed", line));
            }
        }
    }
    item.data = status_to_json(&block);
    item
}

fn entry_part(block: Severity, entry: &DataEntry<'_>, before_boot: bool, logged: bool) -> Part {
    let header = entry.header;
    let severity = header.severity();
    let mut part = section_part(header.section_type, severity, &entry.section);
    // A log tells some sections in part only: their bytes are not there, which is no damage.
    if logged && entry.section.is_err() {
        part.problem = None;
    }
    add_fru(&mut part, header.fru_text(), header.fru_id());
    if let Some(time) = entry.timestamp().and_then(|time| time.civil()) {
        part.facts.push(fact("Time", time.to_string()));
    }
    if !before_boot {
        part.facts
            .push(fact("Linux", reaction_text(reaction(block, entry))));
    }
    part.facts.extend(advice(severity, &entry.section));
    part
}

fn section_part(kind: Guid, severity: Severity, section: &Result<Section<'_>, Error>) -> Part {
    let name =
        section_type::name(kind).map_or_else(|| format!("Section of type {kind}"), str::to_owned);
    let mut part = Part::new(format!("{name}, {}", words(severity)), Vec::new());
    match section {
        Ok(section) => {
            part.facts = facts::of(section);
            part.address = section.physical_address();
        }
        Err(error) => part.problem = Some(error.to_string()),
    }
    part
}

fn add_fru(part: &mut Part, text: Option<&[u8]>, id: Option<Guid>) {
    let text = text.map(|text| String::from_utf8_lossy(text).trim().to_owned());
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        // Firmware's text can hold anything, and terminals obey some of it.
        let clean = text.replace(|c: char| c.is_control(), "?");
        part.facts.push(fact("Unit", clean));
    } else if let Some(id) = id {
        part.facts.push(fact("Unit", id.to_string()));
    }
}

fn words(severity: Severity) -> String {
    severity.to_string().to_lowercase()
}

fn reaction_text(reaction: Reaction) -> String {
    match reaction {
        Reaction::Panic => "panics".to_owned(),
        Reaction::TakePageOut { address } => format!(
            "takes the page at {:#x} out of use, and signals (SIGBUS) who depends on it",
            address & !4095
        ),
        Reaction::RetirePage { address } => format!(
            "moves what is on the page at {:#x} elsewhere and retires it, unless \
             vm.enable_soft_offline is 0",
            address & !4095
        ),
        Reaction::Log(why) => format!("logs it and does nothing: {}", why.text()),
        _ => "is not known here".to_owned(),
    }
}

/// What a person can do.
fn advice(severity: Severity, section: &Result<Section<'_>, Error>) -> Option<Fact> {
    let memory = matches!(
        section,
        Ok(Section::Memory(_) | Section::ShortMemory(_) | Section::Memory2(_))
    );
    let text = match (memory, severity) {
        (true, Severity::Recoverable | Severity::Fatal) => {
            "data was lost at this address. In a guest: its host has told it so, look there. On a \
             machine: plan to replace the module that Where, DIMM or Unit names"
        }
        (true, Severity::Corrected) => {
            "nothing was lost. Replace the module if such errors come often, or from many addresses"
        }
        _ => return None,
    };
    Some(fact("Do", text))
}
