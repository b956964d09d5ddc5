//! ARM processor error sections.

use alloc::vec::Vec;

use serde_json::{Value, json};
use zerocopy::IntoBytes;

use super::node::{JsonError, Node, bits, data, named};
use super::numbers::{fields_from_json, fields_to_json};
use super::registers::{arm_registers_from_json, arm_registers_to_json};
use crate::section::arm::{
    ArmContext, ArmContextHeader, ArmError, ArmErrorInfo, ArmHeader, ErrorKind, INFO_FLAGS,
};
use crate::section::registers::{ARM_CONTEXTS, Layout, arm_layout};

const RESERVED: &str = "Unknown (Reserved)";
/// The kinds that have fields, with the names of their objects.
const KINDS: [(ErrorKind, &str); 3] = [
    (ErrorKind::Cache, "cacheError"),
    (ErrorKind::Tlb, "tlbError"),
    (ErrorKind::Bus, "busError"),
];

pub(super) fn arm_to_json(arm: &ArmError<'_>) -> Value {
    let header = arm.header;
    let mut object = json!({
        "errorInfoNum": header.info_count.get(),
        "contextInfoNum": header.context_count.get(),
        "sectionLength": header.section_length.get(),
        "midrEl1": header.midr.get(),
        "errorInfo": arm.infos.iter().map(info_to_json).collect::<Vec<_>>(),
        "contextInfo": arm.contexts().map(context_to_json).collect::<Vec<_>>(),
    });
    if let Some(level) = header.affinity_level() {
        let kind = if level < 4 {
            "Vendor Defined"
        } else {
            "Reserved"
        };
        object["errorAffinity"] = json!({ "value": level, "type": kind });
    }
    if let Some(mpidr) = header.mpidr() {
        object["mpidrEl1"] = mpidr.into();
        // Affinity level 3: the socket on many machines.
        object["affinity3"] = (mpidr >> 32 & 0xff).into();
    }
    if let Some(running) = header.is_running() {
        object["running"] = running.into();
    }
    if let Some(state) = header.psci_state() {
        object["psciState"] = state.into();
    }
    if !arm.vendor.is_empty() {
        object["vendorSpecificInfo"] = data(arm.vendor);
    }
    object
}

fn info_to_json(info: &ArmErrorInfo) -> Value {
    let kind = ErrorKind::by_number(info.error_type);
    let mut object = json!({
        "version": info.version,
        "length": info.length,
        "errorType": named(info.error_type, kind.map_or(RESERVED, ErrorKind::name)),
    });
    if let Some(count) = info.multiple_error() {
        let kind = if count == 0 {
            "Single Error"
        } else {
            "Multiple Errors"
        };
        object["multipleError"] = json!({ "value": count, "type": kind });
    }
    if let Some(flags) = info.flags() {
        object["flags"] = bits(flags.into(), &INFO_FLAGS);
    }
    if let Some(information) = info.error_information() {
        let kind = kind.or_else(|| only(ErrorKind::by_bits(info.error_type)));
        let known = KINDS.iter().find(|(known, _)| Some(*known) == kind);
        object["errorInformation"] = match known {
            Some((kind, name)) => json!({ *name: fields_to_json(kind.fields(), information) }),
            None => json!({ "value": information }),
        };
    }
    if let Some(address) = info.virtual_address() {
        object["virtualFaultAddress"] = address.into();
    }
    if let Some(address) = info.physical_address() {
        object["physicalFaultAddress"] = address.into();
    }
    object
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next();
    if items.next().is_some() { None } else { first }
}

fn context_to_json(context: ArmContext<'_>) -> Value {
    let context_type = context.header.context_type.get();
    let name = ARM_CONTEXTS.get(usize::from(context_type));
    let layout = arm_layout(context_type, context.registers.len());
    json!({
        "version": context.header.version.get(),
        "registerContextType": named(context_type, name.map_or(RESERVED, |(name, _)| name)),
        "registerArraySize": context.registers.len(),
        "registerArray": arm_registers_to_json(context_type, layout, context.registers),
    })
}

pub(super) fn arm_from_json(node: &Node<'_>) -> Result<Vec<u8>, JsonError> {
    let mut header = ArmHeader {
        midr: node.need("midrEl1")?.number(64)?.into(),
        ..ArmHeader::default()
    };
    let mut validation = 0;
    if let Some(mpidr) = node.get("mpidrEl1") {
        header.mpidr = mpidr.number(64)?.into();
        validation |= 1;
    }
    if let Some(affinity) = node.get("errorAffinity") {
        header.affinity_level = affinity.need("value")?.u8()?;
        validation |= 1 << 1;
    }
    let mut running_state = 1 << 31;
    if let Some(state) = node.get("psciState") {
        header.psci_state = state.u32()?.into();
        running_state = 0;
    }
    if let Some(running) = node.get("running") {
        running_state |= u32::from(running.boolean()?);
        validation |= 1 << 2;
    }
    header.running_state = running_state.into();

    let mut after = Vec::new();
    let infos = node.need("errorInfo")?;
    for info in infos.items()? {
        after.extend_from_slice(info_from_json(&info)?.as_bytes());
    }
    header.info_count = count(&infos)?;
    if let Some(contexts) = node.get("contextInfo") {
        for context in contexts.items()? {
            context_from_json(&context, &mut after)?;
        }
        header.context_count = count(&contexts)?;
    }
    if let Some(vendor) = node.get("vendorSpecificInfo") {
        after.extend_from_slice(&vendor.data()?);
        validation |= 1 << 3;
    }
    header.validation = validation.into();
    let length = u32::try_from(size_of::<ArmHeader>() + after.len());
    let length = length.map_err(|_| node.error("this is more than a section can hold"))?;
    header.section_length = length.into();
    let mut bytes = header.as_bytes().to_vec();
    bytes.append(&mut after);
    Ok(bytes)
}

fn count(array: &Node<'_>) -> Result<zerocopy::little_endian::U16, JsonError> {
    let count = u16::try_from(array.items()?.len());
    let count = count.map_err(|_| array.error("this has more than 65535 elements"))?;
    Ok(count.into())
}

fn info_from_json(node: &Node<'_>) -> Result<ArmErrorInfo, JsonError> {
    let mut info = ArmErrorInfo {
        version: node.need("version")?.u8()?,
        length: node.need("length")?.u8()?,
        error_type: node.need("errorType")?.need("value")?.u8()?,
        ..ArmErrorInfo::default()
    };
    let mut validation = 0;
    if let Some(count) = node.get("multipleError") {
        info.multiple_error = count.need("value")?.u16()?.into();
        validation |= 1;
    }
    if let Some(flags) = node.get("flags") {
        info.flags = flags.bits(&INFO_FLAGS)? as u8;
        validation |= 1 << 1;
    }
    if let Some(information) = node.get("errorInformation") {
        let mut number = None;
        for (kind, name) in KINDS {
            if let Some(fields) = information.get(name) {
                number = Some(fields_from_json(&fields, kind.fields())?);
            }
        }
        let number = match number {
            Some(number) => number,
            None => information.need("value")?.number(64)?,
        };
        info.error_information = number.into();
        validation |= 1 << 2;
    }
    if let Some(address) = node.get("virtualFaultAddress") {
        info.virtual_address = address.number(64)?.into();
        validation |= 1 << 3;
    }
    if let Some(address) = node.get("physicalFaultAddress") {
        info.physical_address = address.number(64)?.into();
        validation |= 1 << 4;
    }
    info.validation = validation.into();
    Ok(info)
}

fn context_from_json(node: &Node<'_>, bytes: &mut Vec<u8>) -> Result<(), JsonError> {
    let context_type = node.need("registerContextType")?.need("value")?.u16()?;
    let array = node.need("registerArray")?;
    let layout: Option<Layout> = arm_layout(context_type, usize::MAX);
    let registers = arm_registers_from_json(&array, context_type, layout)?;
    let size = u32::try_from(registers.len());
    let size = size.map_err(|_| array.error("these are more bytes than a context can hold"))?;
    let header = ArmContextHeader {
        version: node.need("version")?.u16()?.into(),
        context_type: context_type.into(),
        size: size.into(),
    };
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&registers);
    Ok(())
}
