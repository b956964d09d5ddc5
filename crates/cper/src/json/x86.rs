//! IA32/X64 processor error sections.

use alloc::string::ToString;
use alloc::vec::Vec;

use serde_json::{Value, json};
use zerocopy::IntoBytes;

use super::node::{JsonError, Node, named};
use super::numbers::{
    Number, fields_from_json, fields_to_json, numbers_from_json, numbers_to_json,
};
use super::registers::{registers_from_json, registers_to_json};
use crate::section::registers::{X86_CONTEXTS, x86_layout};
use crate::section::x86::{
    CheckKind, X86Context, X86ContextHeader, X86Error, X86ErrorInfo, X86Header,
};
use core::mem::offset_of;

const NUMBERS: &[Number] = &[
    ("targetAddressID", 1, offset_of!(X86ErrorInfo, target_id), 8),
    ("requestorID", 2, offset_of!(X86ErrorInfo, requestor_id), 8),
    ("responderID", 3, offset_of!(X86ErrorInfo, responder_id), 8),
    (
        "instructionPointer",
        4,
        offset_of!(X86ErrorInfo, instruction_pointer),
        8,
    ),
];
const CPUID: [&str; 4] = ["eax", "ebx", "ecx", "edx"];
/// Structures of each sort that the section's header can count.
const MOST: usize = 0x3f;

pub(super) fn x86_to_json(x86: &X86Error<'_>) -> Value {
    let header = x86.header;
    let mut object = json!({
        "processorErrorInfoNum": header.info_count(),
        "processorContextInfoNum": header.context_count(),
        "processorErrorInfo": x86.infos.iter().map(info_to_json).collect::<Vec<_>>(),
        "processorContextInfo": x86.contexts().map(context_to_json).collect::<Vec<_>>(),
    });
    if let Some(id) = header.apic_id() {
        object["localAPICID"] = id.into();
    }
    if let Some([eax, ebx, ecx, edx]) = header.cpuid() {
        object["cpuidInfo"] = json!({ "eax": eax, "ebx": ebx, "ecx": ecx, "edx": edx });
    }
    object
}

fn info_to_json(info: &X86ErrorInfo) -> Value {
    let kind = info.kind();
    let name = kind.map_or("Unknown", CheckKind::name);
    let mut object = serde_json::Map::new();
    let guid = info.error_type.to_string();
    object.insert("type".to_string(), json!({ "guid": guid, "name": name }));
    if let Some(check) = info.check_info() {
        let fields = match kind {
            Some(kind) => fields_to_json(kind.fields(), check),
            None => json!({ "value": check }),
        };
        object.insert("checkInfo".to_string(), fields);
    }
    numbers_to_json(&mut object, NUMBERS, info.validation.get(), info.as_bytes());
    Value::Object(object)
}

fn context_to_json(context: X86Context<'_>) -> Value {
    let context_type = context.header.context_type.get();
    let name = X86_CONTEXTS.get(usize::from(context_type));
    let layout = x86_layout(context_type, context.registers.len());
    let name = name.map_or("Unknown (Reserved)", |(name, _)| name);
    json!({
        "registerContextType": named(context_type, name),
        "registerArraySize": context.registers.len(),
        "msrAddress": context.header.msr_address.get(),
        "mmRegisterAddress": context.header.mm_address.get(),
        "registerArray": registers_to_json(layout, context.registers),
    })
}

pub(super) fn x86_from_json(node: &Node<'_>) -> Result<Vec<u8>, JsonError> {
    let mut header = X86Header::default();
    let mut validation = 0;
    if let Some(id) = node.get("localAPICID") {
        header.apic_id = id.number(64)?.into();
        validation |= 1;
    }
    if let Some(cpuid) = node.get("cpuidInfo") {
        for (place, name) in CPUID.into_iter().enumerate() {
            header.cpuid[place] = cpuid.need(name)?.number(64)?.into();
        }
        validation |= 1 << 1;
    }
    let mut after = Vec::new();
    for (name, shift) in [("processorErrorInfo", 2), ("processorContextInfo", 8)] {
        let Some(array) = node.get(name) else {
            continue;
        };
        let items = array.items()?;
        if items.len() > MOST {
            return Err(array.error("this has more than 63 elements"));
        }
        validation |= (items.len() as u64) << shift;
        for item in items {
            match shift {
                2 => after.extend_from_slice(info_from_json(&item)?.as_bytes()),
                _ => context_from_json(&item, &mut after)?,
            }
        }
    }
    header.validation = validation.into();
    let mut bytes = header.as_bytes().to_vec();
    bytes.append(&mut after);
    Ok(bytes)
}

fn info_from_json(node: &Node<'_>) -> Result<X86ErrorInfo, JsonError> {
    let mut info = X86ErrorInfo {
        error_type: node.need("type")?.need("guid")?.guid()?,
        ..X86ErrorInfo::default()
    };
    let mut validation = numbers_from_json(node, NUMBERS, info.as_mut_bytes())?;
    if let Some(check) = node.get("checkInfo") {
        let number = match info.kind() {
            Some(kind) => fields_from_json(&check, kind.fields())?,
            None => check.need("value")?.number(64)?,
        };
        info.check_info = number.into();
        validation |= 1;
    }
    info.validation = validation.into();
    Ok(info)
}

fn context_from_json(node: &Node<'_>, bytes: &mut Vec<u8>) -> Result<(), JsonError> {
    let context_type = node.need("registerContextType")?.need("value")?.u16()?;
    let array = node.need("registerArray")?;
    let registers = registers_from_json(&array, x86_layout(context_type, usize::MAX))?;
    let size = u16::try_from(registers.len());
    let size = size.map_err(|_| array.error("these are more bytes than a context can hold"))?;
    let header = X86ContextHeader {
        context_type: context_type.into(),
        size: size.into(),
        msr_address: node.need("msrAddress")?.u32()?.into(),
        mm_address: node.need("mmRegisterAddress")?.number(64)?.into(),
    };
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&registers);
    Ok(())
}
