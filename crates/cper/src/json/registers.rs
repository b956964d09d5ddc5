//! Registers in context information structures.

use alloc::borrow::ToOwned;
use alloc::vec;
use alloc::vec::Vec;

use serde_json::{Value, json};

use super::node::{JsonError, Node, data};
use crate::section::registers::{Layout, size, values};

/// ARM's "miscellaneous" context: the register's MRS encoding in 16 bits, then its value in 64.
const MISCELLANEOUS: u16 = 8;
/// The fields of the encoding from bit 0: name and width.
const ENCODING: [(&str, u32); 5] = [("op2", 3), ("crm", 4), ("crn", 4), ("op1", 3), ("o0", 2)];

/// Registers by name where their bytes are exactly as many as they take; else the bytes.
pub(super) fn registers_to_json(layout: Option<Layout>, bytes: &[u8]) -> Value {
    match layout.filter(|layout| size(layout) == bytes.len()) {
        Some(layout) => values(layout, bytes)
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect(),
        None => data(bytes),
    }
}

pub(super) fn registers_from_json(
    node: &Node<'_>,
    layout: Option<Layout>,
) -> Result<Vec<u8>, JsonError> {
    let Some(layout) = layout.filter(|_| node.get("data").is_none()) else {
        return node.data();
    };
    let mut bytes = Vec::with_capacity(size(layout));
    for (name, width) in layout {
        let value = match *name {
            "" => 0,
            name => node.need(name)?.number(*width as u32 * 8)?,
        };
        bytes.extend_from_slice(&value.to_le_bytes()[..*width]);
    }
    Ok(bytes)
}

/// As [`registers_to_json`], for ARM, which has one context that is neither names nor bytes.
pub(super) fn arm_registers_to_json(
    context_type: u16,
    layout: Option<Layout>,
    bytes: &[u8],
) -> Value {
    let (MISCELLANEOUS, [low, high, value @ ..]) = (context_type, bytes) else {
        return registers_to_json(layout, bytes);
    };
    let Ok(value) = value.try_into().map(u64::from_le_bytes) else {
        return data(bytes);
    };
    let mut rest = u16::from_le_bytes([*low, *high]);
    let encoding: Value = ENCODING
        .iter()
        .map(|(name, width)| {
            let field = rest & ((1 << width) - 1);
            rest >>= width;
            ((*name).to_owned(), Value::from(field))
        })
        .collect();
    json!({ "mrsEncoding": encoding, "value": value })
}

pub(super) fn arm_registers_from_json(
    node: &Node<'_>,
    context_type: u16,
    layout: Option<Layout>,
) -> Result<Vec<u8>, JsonError> {
    let Some(encoding) = node
        .get("mrsEncoding")
        .filter(|_| context_type == MISCELLANEOUS)
    else {
        return registers_from_json(node, layout);
    };
    let (mut number, mut low) = (0_u16, 0);
    for (name, width) in ENCODING {
        number |= (encoding.need(name)?.number(width)? as u16) << low;
        low += width;
    }
    let mut bytes = vec![0; 10];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    bytes[2..].copy_from_slice(&node.need("value")?.number(64)?.to_le_bytes());
    Ok(bytes)
}
