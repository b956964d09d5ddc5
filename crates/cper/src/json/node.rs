//! JSON being read: every failure knows which field it is about.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::guid::Guid;

/// JSON that is no record, and the field that makes it so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct JsonError {
    /// The field, such as `sections[0].Memory.node`; `record` for the whole.
    pub path: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A value, and the way to it.
#[derive(Debug, Clone)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    path: String,
}

impl<'a> Node<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        let path = String::new();
        Self { value, path }
    }

    pub(super) fn error(&self, problem: impl Into<String>) -> JsonError {
        let path = match self.path.as_str() {
            "" => "record",
            path => path,
        };
        JsonError {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }

    /// A member of an object; `None` where it is not there or null.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let value = self.value.get(key).filter(|value| !value.is_null())?;
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Some(Self { value, path })
    }

    pub(super) fn need(&self, key: &str) -> Result<Self, JsonError> {
        self.get(key)
            .ok_or_else(|| self.error(format!("the field {key} is missing")))
    }

    pub(super) fn items(&self) -> Result<Vec<Self>, JsonError> {
        let items = self
            .value
            .as_array()
            .ok_or_else(|| self.error("this is no array"))?;
        let item = |(place, value)| Self {
            value,
            path: format!("{}[{place}]", self.path),
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A number of at most so many bits.
    pub(super) fn number(&self, bits: u32) -> Result<u64, JsonError> {
        self.value
            .as_u64()
            .filter(|number| bits >= 64 || number >> bits == 0)
            .ok_or_else(|| self.error(format!("this is no number from 0 to 2^{bits} - 1")))
    }

    pub(super) fn u8(&self) -> Result<u8, JsonError> {
        Ok(self.number(8)? as u8)
    }

    pub(super) fn u16(&self) -> Result<u16, JsonError> {
        Ok(self.number(16)? as u16)
    }

    pub(super) fn u32(&self) -> Result<u32, JsonError> {
        Ok(self.number(32)? as u32)
    }

    pub(super) fn boolean(&self) -> Result<bool, JsonError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.error("this is neither true nor false"))
    }

    pub(super) fn text(&self) -> Result<&'a str, JsonError> {
        self.value
            .as_str()
            .ok_or_else(|| self.error("this is no text"))
    }

    pub(super) fn guid(&self) -> Result<Guid, JsonError> {
        let parsed = self.text()?.parse();
        parsed.map_err(|error| self.error(format!("{error}")))
    }

    /// Bytes in base64, in the member `data`.
    pub(super) fn data(&self) -> Result<Vec<u8>, JsonError> {
        let data = self.need("data")?;
        let decoded = BASE64_STANDARD.decode(data.text()?);
        decoded.map_err(|error| data.error(format!("this is no base64: {error}")))
    }

    /// An object of booleans as the bits of a number, from bit 0; those that are missing are clear.
    pub(super) fn bits(&self, names: &[&str]) -> Result<u32, JsonError> {
        let mut bits = 0;
        for (bit, name) in names.iter().enumerate() {
            if let Some(field) = self.get(name) {
                bits |= u32::from(field.boolean()?) << bit;
            }
        }
        Ok(bits)
    }

    /// A revision, major in the high byte.
    pub(super) fn revision(&self) -> Result<u16, JsonError> {
        let (major, minor) = (self.need("major")?.u8()?, self.need("minor")?.u8()?);
        Ok(u16::from_be_bytes([major, minor]))
    }
}

pub(super) fn data(bytes: &[u8]) -> Value {
    json!({ "data": BASE64_STANDARD.encode(bytes) })
}

pub(super) fn bits(bits: u32, names: &[&str]) -> Value {
    let booleans = names.iter().enumerate();
    booleans
        .map(|(bit, name)| ((*name).to_owned(), Value::from(bits >> bit & 1 != 0)))
        .collect()
}

pub(super) fn revision(revision: u16) -> Value {
    let [major, minor] = revision.to_be_bytes();
    json!({ "major": major, "minor": minor })
}

/// A number with the name that people know it by.
pub(super) fn named(value: impl Into<u64>, name: &str) -> Value {
    json!({ "value": value.into(), "name": name })
}
