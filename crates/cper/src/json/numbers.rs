//! Numbers that lie at an offset of a structure, each valid where a bit says so: most of what sections
//! consist of.

use alloc::borrow::ToOwned;
use alloc::string::String;

use serde_json::{Map, Value};

use super::node::{JsonError, Node};
use crate::bits::{BitField, Values};

/// One number: its name, the bit that says whether it is valid, its offset and its bytes.
pub(super) type Number = (&'static str, u32, usize, usize);

/// Adds those numbers of a structure that are valid.
pub(super) fn numbers_to_json(
    object: &mut Map<String, Value>,
    numbers: &[Number],
    validation: u64,
    bytes: &[u8],
) {
    for (name, bit, at, width) in numbers {
        if validation >> bit & 1 != 0
            && let Some(bytes) = bytes.get(*at..at + width)
        {
            let value = bytes
                .iter()
                .rev()
                .fold(0, |value, byte| value << 8 | u64::from(*byte));
            object.insert((*name).to_owned(), value.into());
        }
    }
}

/// Writes those numbers of a structure that are there, and gives the bits that say so.
pub(super) fn numbers_from_json(
    node: &Node<'_>,
    numbers: &[Number],
    bytes: &mut [u8],
) -> Result<u64, JsonError> {
    let mut validation = 0;
    for (name, bit, at, width) in numbers {
        if let Some(field) = node.get(name) {
            let value = field.number(*width as u32 * 8)?.to_le_bytes();
            bytes[*at..at + width].copy_from_slice(&value[..*width]);
            validation |= 1 << bit;
        }
    }
    Ok(validation)
}

/// The fields of a number that are valid, as an object.
pub(super) fn fields_to_json(fields: &[BitField], number: u64) -> Value {
    let valid = fields.iter().filter_map(|field| {
        let value = field.get(number)?;
        let value = match (field.values, field.value_name(value)) {
            (Values::Boolean, _) => (value != 0).into(),
            (_, Some(name)) => super::node::named(value, name),
            (_, None) => value.into(),
        };
        Some((field.name.to_owned(), value))
    });
    valid.collect()
}

/// The number whose fields are those of an object.
pub(super) fn fields_from_json(node: &Node<'_>, fields: &[BitField]) -> Result<u64, JsonError> {
    let mut number = 0;
    for field in fields {
        let Some(found) = node.get(field.name) else {
            continue;
        };
        let value = match field.values {
            Values::Boolean => found.boolean()?.into(),
            Values::Number => found.number(field.width)?,
            Values::Named(..) => found.need("value")?.number(field.width)?,
        };
        number = field.set(number, value);
    }
    Ok(number)
}
