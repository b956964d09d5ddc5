//! Generic error status blocks. libcper has no form for them: this is one, of the same parts.

use alloc::vec::Vec;

use serde_json::{Value, json};

use super::node::{JsonError, Node, bits, data, revision};
use super::record::{
    add_fru, add_timestamp, fru_from_json, section_type_to_json, severity_from_json,
    severity_to_json, timestamp_from_json,
};
use super::section::{section, section_to_json};
use crate::record::SECTION_FLAGS;
use crate::status::{DataEntry, DataEntryHeader, StatusBlock, StatusBlockBuilder};

/// A status block as JSON. Where an entry is damaged, those before it are there.
pub fn status_to_json(block: &StatusBlock<'_>) -> Value {
    let entries: Vec<_> = block
        .entries()
        .filter_map(Result::ok)
        .map(entry_to_json)
        .collect();
    let mut object = json!({
        "blockStatus": block.header().block_status.get(),
        "severity": severity_to_json(block.header().severity()),
        "entries": entries,
    });
    if !block.raw_data().is_empty() {
        object["rawData"] = data(block.raw_data());
    }
    object
}

fn entry_to_json(entry: DataEntry<'_>) -> Value {
    let header = entry.header;
    let mut object = json!({
        "sectionType": section_type_to_json(header.section_type),
        "severity": severity_to_json(header.severity()),
        "revision": revision(header.revision.get()),
        "flags": bits(header.flags.into(), &SECTION_FLAGS),
        "section": section_to_json(&entry.section, entry.bytes),
    });
    add_fru(&mut object, header.fru_id(), header.fru_text());
    add_timestamp(&mut object, entry.timestamp());
    object
}

/// The status block that JSON describes. Its block status, lengths and counts follow from the entries.
///
/// # Errors
///
/// Says which field is missing or is not what it has to be.
pub fn status_from_json(value: &Value) -> Result<StatusBlockBuilder, JsonError> {
    let node = Node::root(value);
    let severity = severity_from_json(&node.need("severity")?)?;
    let mut builder = StatusBlockBuilder::new(severity.into());
    for entry in node.need("entries")?.items()? {
        let (fru_id, fru_text, mut validation) = fru_from_json(&entry)?;
        let timestamp = timestamp_from_json(&entry)?;
        validation |= u8::from(timestamp.is_some()) << 2;
        let header = DataEntryHeader {
            section_type: entry.need("sectionType")?.need("data")?.guid()?,
            severity: severity_from_json(&entry.need("severity")?)?.into(),
            revision: entry.need("revision")?.revision()?.into(),
            flags: entry.need("flags")?.bits(&SECTION_FLAGS)? as u8,
            validation,
            fru_id,
            fru_text,
            ..DataEntryHeader::default()
        };
        let section = section(&entry.need("section")?)?;
        builder.entry(header, timestamp.unwrap_or_default(), &section);
    }
    if let Some(raw) = node.get("rawData") {
        builder.raw_data(&raw.data()?);
    }
    Ok(builder)
}
