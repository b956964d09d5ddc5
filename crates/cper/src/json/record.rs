//! Records: header, descriptors, sections.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde_json::{Value, json};

use super::node::{JsonError, Node, bits, named, revision};
use super::section::{section, section_to_json};
use crate::guid::{Guid, notification_type, section_type};
use crate::record::{Record, RecordBuilder, RecordHeader, SECTION_FLAGS, SectionDescriptor};
use crate::severity::Severity;
use crate::time::Timestamp;

/// Names of the values of a record's flags.
const RECORD_FLAGS: [(u32, &str); 3] = [
    (1, "HW_ERROR_FLAGS_RECOVERED"),
    (2, "HW_ERROR_FLAGS_PREVERR"),
    (4, "HW_ERROR_FLAGS_SIMULATED"),
];

/// A record as JSON.
pub fn record_to_json(record: &Record<'_>) -> Value {
    let descriptors: Vec<_> = record
        .sections()
        .map(|section| descriptor_to_json(section.descriptor))
        .collect();
    let sections: Vec<_> = record
        .sections()
        .map(|section| section_to_json(&section.section, section.bytes))
        .collect();
    json!({
        "header": header_to_json(record.header()),
        "sectionDescriptors": descriptors,
        "sections": sections,
    })
}

/// The record that JSON describes. Offsets, lengths and counts in it are ignored: they follow from the
/// sections.
///
/// # Errors
///
/// Says which field is missing or is not what it has to be.
pub fn record_from_json(value: &Value) -> Result<RecordBuilder, JsonError> {
    let node = Node::root(value);
    let header = node.need("header")?;
    let mut builder = RecordBuilder::new(Severity::Recoverable, Guid::default());
    builder.header = header_from_json(&header)?;
    let descriptors = node.need("sectionDescriptors")?;
    let sections = node.need("sections")?;
    if descriptors.items()?.len() != sections.items()?.len() {
        return Err(sections.error("these are not as many as there are section descriptors"));
    }
    for (descriptor, fields) in descriptors.items()?.iter().zip(sections.items()?) {
        builder.section(descriptor_from_json(descriptor)?, &section(&fields)?);
    }
    Ok(builder)
}

fn header_to_json(header: &RecordHeader) -> Value {
    let flags = header.flags.get();
    let flag = RECORD_FLAGS.iter().find(|(value, _)| *value == flags);
    let kind = header.notification_type;
    let mut object = json!({
        "revision": revision(header.revision.get()),
        "sectionCount": header.section_count.get(),
        "severity": severity_to_json(header.severity()),
        "recordLength": header.record_length.get(),
        "creatorID": header.creator_id.to_string(),
        "notificationType": {
            "guid": kind.to_string(),
            "type": notification_type::name(kind).unwrap_or("Unknown"),
        },
        "recordID": header.record_id.get(),
        "flags": named(flags, flag.map_or("Unknown", |(_, name)| name)),
        "persistenceInfo": header.persistence.get(),
    });
    add_timestamp(&mut object, header.timestamp());
    if let Some(id) = header.platform_id() {
        object["platformID"] = id.to_string().into();
    }
    if let Some(id) = header.partition_id() {
        object["partitionID"] = id.to_string().into();
    }
    object
}

fn header_from_json(node: &Node<'_>) -> Result<RecordHeader, JsonError> {
    let mut header = RecordHeader {
        revision: node.need("revision")?.revision()?.into(),
        severity: severity_from_json(&node.need("severity")?)?.into(),
        creator_id: node.need("creatorID")?.guid()?,
        notification_type: node.need("notificationType")?.need("guid")?.guid()?,
        record_id: node.need("recordID")?.number(64)?.into(),
        flags: node.need("flags")?.need("value")?.u32()?.into(),
        persistence: node.need("persistenceInfo")?.number(64)?.into(),
        ..RecordHeader::default()
    };
    let mut validation = 0;
    if let Some(id) = node.get("platformID") {
        header.platform_id = id.guid()?;
        validation |= 1;
    }
    if let Some(timestamp) = timestamp_from_json(node)? {
        header.timestamp = timestamp;
        validation |= 2;
    }
    if let Some(id) = node.get("partitionID") {
        header.partition_id = id.guid()?;
        validation |= 4;
    }
    header.validation = validation.into();
    Ok(header)
}

fn descriptor_to_json(descriptor: &SectionDescriptor) -> Value {
    let mut object = json!({
        "sectionOffset": descriptor.section_offset.get(),
        "sectionLength": descriptor.section_length.get(),
        "revision": revision(descriptor.revision.get()),
        "flags": bits(descriptor.flags.get(), &SECTION_FLAGS),
        "sectionType": section_type_to_json(descriptor.section_type),
        "severity": severity_to_json(descriptor.severity()),
    });
    add_fru(&mut object, descriptor.fru_id(), descriptor.fru_text());
    object
}

fn descriptor_from_json(node: &Node<'_>) -> Result<SectionDescriptor, JsonError> {
    let (fru_id, fru_text, validation) = fru_from_json(node)?;
    Ok(SectionDescriptor {
        revision: node.need("revision")?.revision()?.into(),
        flags: node.need("flags")?.bits(&SECTION_FLAGS)?.into(),
        section_type: node.need("sectionType")?.need("data")?.guid()?,
        severity: severity_from_json(&node.need("severity")?)?.into(),
        validation,
        fru_id,
        fru_text,
        ..SectionDescriptor::default()
    })
}

pub(super) fn severity_to_json(severity: Severity) -> Value {
    json!({ "code": u32::from(severity), "name": severity.name() })
}

pub(super) fn severity_from_json(node: &Node<'_>) -> Result<u32, JsonError> {
    node.need("code")?.u32()
}

pub(super) fn section_type_to_json(guid: Guid) -> Value {
    let name = section_type::name(guid).unwrap_or("Unknown");
    json!({ "data": guid.to_string(), "type": name })
}

pub(super) fn add_fru(object: &mut Value, id: Option<Guid>, text: Option<&[u8]>) {
    if let Some(id) = id {
        object["fruID"] = id.to_string().into();
    }
    let printable = |text: &&[u8]| text.iter().all(|byte| (b' '..=b'~').contains(byte));
    if let Some(text) = text.filter(printable) {
        object["fruText"] = String::from_utf8_lossy(text).into();
    }
}

/// The field-replaceable unit, and the bits that say what of it is there.
pub(super) fn fru_from_json(node: &Node<'_>) -> Result<(Guid, [u8; 20], u8), JsonError> {
    let (mut id, mut text, mut validation) = (Guid::default(), [0; 20], 0);
    if let Some(field) = node.get("fruID") {
        id = field.guid()?;
        validation |= 1;
    }
    if let Some(field) = node.get("fruText") {
        let bytes = field.text()?.as_bytes();
        let room = text.get_mut(..bytes.len());
        room.ok_or_else(|| field.error("this is longer than 20 bytes"))?
            .copy_from_slice(bytes);
        validation |= 2;
    }
    Ok((id, text, validation))
}

pub(super) fn add_timestamp(object: &mut Value, timestamp: Option<Timestamp>) {
    if let Some(timestamp) = timestamp
        && let Some(civil) = timestamp.civil()
    {
        object["timestamp"] = format!("{civil}+00:00").into();
        object["timestampIsPrecise"] = timestamp.is_precise().into();
    }
}

pub(super) fn timestamp_from_json(node: &Node<'_>) -> Result<Option<Timestamp>, JsonError> {
    let Some(field) = node.get("timestamp") else {
        return Ok(None);
    };
    let precise = match node.get("timestampIsPrecise") {
        Some(precise) => precise.boolean()?,
        None => false,
    };
    let text = field.text()?;
    let civil = text.strip_suffix("+00:00").unwrap_or(text).parse();
    let timestamp = civil.ok().and_then(|civil| Timestamp::new(civil, precise));
    timestamp.map(Some).ok_or_else(|| {
        field.error("this is no time in the form 2026-01-31T23:59:59+00:00".to_owned())
    })
}
