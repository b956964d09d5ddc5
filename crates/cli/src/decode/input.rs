//! What a file holds, whatever form it has: bytes, the text of a kernel log, or registers as text.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use pagemend::guest::x86::{Written, machine_checks};
use pagemend_cper::json::{JsonError, record_from_json, status_from_json};
use pagemend_cper::log;
use serde_json::Value;

use super::hex;

/// What is to be decoded.
pub(super) enum Content {
    Bytes(Vec<u8>),
    Log(String),
    MachineChecks(Vec<Written>),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: this is JSON of no record: {error}", path.display())]
    Json { path: PathBuf, error: JsonError },
    #[error("{}: this is JSON, but neither a record, a status block, nor a report of `pagemend decode`", path.display())]
    OtherJson { path: PathBuf },
    #[error("{}: a record of it is larger than records can be", path.display())]
    TooLarge { path: PathBuf },
}

pub(super) fn read(path: &Path) -> Result<Content, InputError> {
    let bytes = read_bytes(path).map_err(|error| InputError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let Ok(text) = std::str::from_utf8(&bytes) else {
        return Ok(Content::Bytes(bytes));
    };
    if log::is_log(text) {
        return Ok(Content::Log(text.to_owned()));
    }
    if let Ok(value) = serde_json::from_str::<Value>(text)
        && value.is_object()
    {
        return from_json(path, &value).map(Content::Bytes);
    }
    let written = machine_checks(text);
    if !written.is_empty() {
        return Ok(Content::MachineChecks(written));
    }
    Ok(Content::Bytes(hex::read(text).unwrap_or(bytes)))
}

fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    if path != Path::new("-") {
        return fs::read(path);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The bytes of a record, of a status block, or of all those in a report.
fn from_json(path: &Path, value: &Value) -> Result<Vec<u8>, InputError> {
    let wrong = |error| InputError::Json {
        path: path.to_owned(),
        error,
    };
    let too_large = || InputError::TooLarge {
        path: path.to_owned(),
    };
    if value.get("header").is_some() {
        let record = record_from_json(value).map_err(wrong)?;
        return record.build().ok_or_else(too_large);
    }
    if value.get("entries").is_some() {
        let block = status_from_json(value).map_err(wrong)?;
        return block.build().ok_or_else(too_large);
    }
    let inputs = value.get("inputs").and_then(Value::as_array);
    let inputs = inputs.ok_or_else(|| InputError::OtherJson {
        path: path.to_owned(),
    })?;
    let mut bytes = Vec::new();
    for input in inputs {
        for item in input["items"].as_array().into_iter().flatten() {
            if item["data"].is_object() {
                bytes.extend_from_slice(&from_json(path, &item["data"])?);
            }
        }
    }
    Ok(bytes)
}
