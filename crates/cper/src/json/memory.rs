//! Memory error sections.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::offset_of;

use serde_json::{Map, Value, json};
use zerocopy::IntoBytes;

use super::node::{JsonError, Node, bits, named};
use super::numbers::{Number, numbers_from_json, numbers_to_json};
use crate::section::memory::{Bank, MemoryError, MemoryError2, ShortMemoryError, error_type_name};
use crate::section::memory_status::{ErrorStatus, SIGNALS};

const RESERVED: &str = "Unknown (Reserved)";

macro_rules! numbers {
    ($type:ty: $($name:literal $bit:literal $field:ident.$width:literal;)*) => {
        &[$(($name, $bit, offset_of!($type, $field), $width)),*]
    };
}

const SHORT: &[Number] = numbers! { ShortMemoryError:
    "physicalAddress" 1 physical_address.8;
    "physicalAddressMask" 2 physical_address_mask.8;
    "node" 3 node.2;
    "card" 4 card.2;
    "moduleRank" 5 module.2;
    "device" 7 device.2;
    "row" 8 row.2;
    "column" 9 column.2;
    "bitPosition" 10 bit_position.2;
    "requestorID" 11 requestor_id.8;
    "responderID" 12 responder_id.8;
    "targetID" 13 target_id.8;
};
const EXTENSION: &[Number] = numbers! { MemoryError:
    "rankNumber" 15 rank.2;
    "cardSmbiosHandle" 16 card_handle.2;
    "moduleSmbiosHandle" 17 module_handle.2;
};
const SECOND: &[Number] = numbers! { MemoryError2:
    "physicalAddress" 1 physical_address.8;
    "physicalAddressMask" 2 physical_address_mask.8;
    "node" 3 node.2;
    "card" 4 card.2;
    "module" 5 module.2;
    "device" 7 device.4;
    "row" 8 row.4;
    "column" 9 column.4;
    "rank" 10 rank.4;
    "bitPosition" 11 bit_position.4;
    "chipID" 12 chip_id.1;
    "requestorID" 15 requestor_id.8;
    "responderID" 16 responder_id.8;
    "targetID" 17 target_id.8;
    "cardSmbiosHandle" 18 card_handle.4;
    "moduleSmbiosHandle" 19 module_handle.4;
};
/// The bits of the second section that say that bank group and bank address are valid.
const SECOND_GROUPED: u64 = 1 << 20 | 1 << 21;
/// Those of the first.
const FIRST_GROUPED: u64 = 1 << 19 | 1 << 20;

pub(super) fn short_to_json(memory: &ShortMemoryError) -> Value {
    Value::Object(short(memory))
}

pub(super) fn memory_to_json(memory: &MemoryError) -> Value {
    let validation = memory.validation.get();
    let mut object = short(&memory.short);
    numbers_to_json(&mut object, EXTENSION, validation, memory.as_bytes());
    if validation >> 18 & 1 != 0 {
        let mut extended = json!({
            "rowBit16": memory.extended & 1 != 0,
            "rowBit17": memory.extended & 2 != 0,
        });
        if let Some(chip) = memory.chip_id() {
            extended["chipIdentification"] = chip.into();
        }
        object.insert("extended".to_owned(), extended);
    }
    Value::Object(object)
}

pub(super) fn memory2_to_json(memory: &MemoryError2) -> Value {
    let mut object = Map::new();
    add_common(
        &mut object,
        memory.error_status(),
        memory.bank(),
        memory.error_type(),
        memory.physical_address(),
    );
    numbers_to_json(
        &mut object,
        SECOND,
        memory.validation.get(),
        memory.as_bytes(),
    );
    if let Some(uncorrected) = memory.is_uncorrected() {
        let state = if uncorrected {
            "Uncorrected"
        } else {
            "Corrected"
        };
        let status = json!({ "value": memory.status, "state": state });
        object.insert("status".to_owned(), status);
    }
    Value::Object(object)
}

pub(super) fn memory_from_json(node: &Node<'_>) -> Result<Vec<u8>, JsonError> {
    let mut memory = MemoryError::default();
    let short = memory.short.as_mut_bytes();
    let mut validation = numbers_from_json(node, SHORT, short)?;
    validation |= numbers_from_json(node, EXTENSION, memory.as_mut_bytes())?;
    if let Some(status) = node.get("errorStatus") {
        memory.short.error_status = error_status_from_json(&status)?.into();
        validation |= 1;
    }
    if let Some(bank) = node.get("bank") {
        let (value, bits) = bank_from_json(&bank, FIRST_GROUPED)?;
        memory.short.bank = value.into();
        validation |= bits;
    }
    if let Some(error_type) = node.get("memoryErrorType") {
        memory.short.error_type = error_type.need("value")?.u8()?;
        validation |= 1 << 14;
    }
    if let Some(extended) = node.get("extended") {
        memory.extended = extended.bits(&["rowBit16", "rowBit17"])? as u8;
        validation |= 1 << 18;
        if let Some(chip) = extended.get("chipIdentification") {
            memory.extended |= (chip.number(3)? as u8) << 5;
            validation |= 1 << 21;
        }
    }
    memory.short.validation = validation.into();
    Ok(memory.as_bytes().to_vec())
}

pub(super) fn memory2_from_json(node: &Node<'_>) -> Result<Vec<u8>, JsonError> {
    let mut memory = MemoryError2::default();
    let mut validation = numbers_from_json(node, SECOND, memory.as_mut_bytes())?;
    if let Some(status) = node.get("errorStatus") {
        memory.error_status = error_status_from_json(&status)?.into();
        validation |= 1;
    }
    if let Some(bank) = node.get("bank") {
        let (value, bits) = bank_from_json(&bank, SECOND_GROUPED)?;
        memory.bank = value.into();
        validation |= bits;
    }
    if let Some(error_type) = node.get("memoryErrorType") {
        memory.error_type = error_type.need("value")?.u8()?;
        validation |= 1 << 13;
    }
    if let Some(status) = node.get("status") {
        memory.status = status.need("value")?.u8()?;
        validation |= 1 << 14;
    }
    memory.validation = validation.into();
    Ok(memory.as_bytes().to_vec())
}

fn short(memory: &ShortMemoryError) -> Map<String, Value> {
    let mut object = Map::new();
    add_common(
        &mut object,
        memory.error_status(),
        memory.bank(),
        memory.error_type(),
        memory.physical_address(),
    );
    numbers_to_json(
        &mut object,
        SHORT,
        memory.validation.get(),
        memory.as_bytes(),
    );
    object
}

fn add_common(
    object: &mut Map<String, Value>,
    status: Option<ErrorStatus>,
    bank: Option<Bank>,
    error_type: Option<u8>,
    physical_address: Option<u64>,
) {
    let mut add = |name: &str, value| object.insert(name.to_owned(), value);
    if let Some(status) = status {
        add("errorStatus", error_status_to_json(status));
    }
    match bank {
        Some(Bank::Whole(value)) => add("bank", json!({ "value": value })),
        Some(Bank::Grouped { group, address }) => {
            let (group, address) = (group.unwrap_or(0), address.unwrap_or(0));
            add("bank", json!({ "address": address, "group": group }))
        }
        None => None,
    };
    if let Some(value) = error_type {
        let name = error_type_name(value).unwrap_or(RESERVED);
        add("memoryErrorType", named(value, name));
    }
    if let Some(address) = physical_address {
        // A browser's numbers end at 2^53, so this is the one that people copy.
        add(
            "physicalAddressHex",
            format!("{address:#018X}").replace("0X", "0x").into(),
        );
    }
}

fn error_status_to_json(status: ErrorStatus) -> Value {
    let mut error_type = named(status.error_type(), status.name().unwrap_or(RESERVED));
    if let Some(meaning) = status.meaning() {
        error_type["description"] = meaning.into();
    }
    let mut object = bits((status.0 >> 16) as u32, &SIGNALS);
    object["errorType"] = error_type;
    object
}

fn error_status_from_json(node: &Node<'_>) -> Result<u64, JsonError> {
    let error_type = node.need("errorType")?.need("value")?.u8()?;
    Ok(u64::from(error_type) << 8 | u64::from(node.bits(&SIGNALS)?) << 16)
}

/// The bank, and the bits that say in which way it is to be read.
fn bank_from_json(node: &Node<'_>, grouped: u64) -> Result<(u16, u64), JsonError> {
    if let Some(value) = node.get("value") {
        return Ok((value.u16()?, 1 << 6));
    }
    let (address, group) = (node.need("address")?.u8()?, node.need("group")?.u8()?);
    Ok((u16::from_le_bytes([address, group]), grouped))
}
