//! Sections by type: an object with one member, whose name says what it is.

use alloc::vec::Vec;

use serde_json::{Value, json};

use super::arm::{arm_from_json, arm_to_json};
use super::memory::{
    memory_from_json, memory_to_json, memory2_from_json, memory2_to_json, short_to_json,
};
use super::node::{JsonError, Node, data};
use super::x86::{x86_from_json, x86_to_json};
use crate::error::Error;
use crate::section::Section;

/// A section as JSON, from what reading it gave and all its bytes. One that is damaged, unknown or of
/// an old form is its bytes.
pub fn section_to_json(section: &Result<Section<'_>, Error>, bytes: &[u8]) -> Value {
    match section {
        Ok(Section::Memory(memory)) => json!({ "Memory": memory_to_json(memory) }),
        Ok(Section::ShortMemory(memory)) => json!({ "Memory": short_to_json(memory) }),
        Ok(Section::Memory2(memory)) => json!({ "Memory2": memory2_to_json(memory) }),
        Ok(Section::Arm(arm)) => json!({ "ArmProcessor": arm_to_json(arm) }),
        Ok(Section::X86(x86)) => json!({ "Ia32x64Processor": x86_to_json(x86) }),
        Ok(Section::Unknown { .. }) | Err(_) => json!({ "Unknown": data(bytes) }),
    }
}

/// The bytes of a section.
///
/// # Errors
///
/// Where the JSON is of a section that is not known here by its fields, or its fields are not what
/// they have to be.
pub fn section_from_json(value: &Value) -> Result<Vec<u8>, JsonError> {
    section(&Node::root(value))
}

pub(super) fn section(node: &Node<'_>) -> Result<Vec<u8>, JsonError> {
    type Reader = fn(&Node<'_>) -> Result<Vec<u8>, JsonError>;
    const READERS: [(&str, Reader); 5] = [
        ("Memory", memory_from_json),
        ("Memory2", memory2_from_json),
        ("ArmProcessor", arm_from_json),
        ("Ia32x64Processor", x86_from_json),
        ("Unknown", |node| node.data()),
    ];
    for (name, read) in READERS {
        if let Some(fields) = node.get(name) {
            return read(&fields);
        }
    }
    Err(node.error(
        "this is no section that can be written: it has to have one of the members Memory, Memory2, \
         ArmProcessor, Ia32x64Processor, or Unknown with its bytes",
    ))
}
