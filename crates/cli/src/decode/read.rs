//! What is in an input, one thing behind another, and where it stops making sense.

use pagemend::guest::x86::{Written, machine_checks};
use pagemend_cper::acpi::Table;
use pagemend_cper::error::Error;
use pagemend_cper::guid::section_type;
use pagemend_cper::log::{self, Logged, PageFate, Report};
use pagemend_cper::record::{Record, SIGNATURE};
use pagemend_cper::severity::Severity;
use pagemend_cper::status::StatusBlock;
use serde::Serialize;

use super::input::Content;

/// Something that was recognised.
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) kind: Kind,
}

/// Where in the input it is.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Byte(usize),
    Line(usize),
}

pub(super) enum Kind {
    Record(Vec<u8>),
    Block {
        bytes: Vec<u8>,
        logged: Option<Logged>,
    },
    Table(Vec<u8>),
    /// Registers, and the lines of a log that they were printed in.
    MachineCheck {
        written: Vec<Written>,
        lines: Vec<String>,
    },
}

/// Where the input stops making sense, and why.
#[derive(Serialize)]
pub(super) struct Problem {
    /// Byte of the input, after hexadecimal digits and JSON have been made bytes.
    pub(super) offset: usize,
    pub(super) reason: String,
}

pub(super) struct Reading {
    pub(super) found: Vec<Found>,
    pub(super) fates: Vec<PageFate>,
    pub(super) problem: Option<Problem>,
}

impl Reading {
    /// The records and status blocks themselves, one behind another.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let bytes = self.found.iter().map(|found| match &found.kind {
            Kind::Record(bytes) | Kind::Block { bytes, .. } => &bytes[..],
            Kind::Table(_) | Kind::MachineCheck { .. } => &[],
        });
        bytes.collect::<Vec<_>>().concat()
    }
}

pub(super) fn read(content: Content) -> Reading {
    match content {
        Content::Log(text) => read_log(&text),
        Content::MachineChecks(written) => read_registers(written),
        Content::Bytes(bytes) => read_bytes(&bytes),
    }
}

fn read_log(text: &str) -> Reading {
    let (logged, fates) = log::read(text);
    let found = logged.into_iter().filter_map(|logged| {
        let kind = match &logged.report {
            Report::MachineCheck(lines) => Kind::MachineCheck {
                written: machine_checks(&lines.join("\n")),
                lines: lines.clone(),
            },
            Report::Block { block, .. } => Kind::Block {
                bytes: block.build()?,
                logged: Some(logged.clone()),
            },
            _ => return None,
        };
        let place = Place::Line(logged.line);
        Some(Found { place, kind })
    });
    Reading {
        found: found.collect(),
        fates,
        problem: None,
    }
}

fn read_registers(written: Vec<Written>) -> Reading {
    let found = written.into_iter().map(|written| Found {
        place: Place::Line(written.line),
        kind: Kind::MachineCheck {
            written: vec![written],
            lines: Vec::new(),
        },
    });
    Reading {
        found: found.collect(),
        fates: Vec::new(),
        problem: None,
    }
}

fn read_bytes(input: &[u8]) -> Reading {
    let mut reading = Reading {
        found: Vec::new(),
        fates: Vec::new(),
        problem: None,
    };
    let mut at = 0;
    while let Some(rest) = input.get(at..).filter(|rest| !rest.is_empty()) {
        // What is reserved for records and not used is zeroes.
        if !reading.found.is_empty() && rest.iter().all(|byte| *byte == 0) {
            break;
        }
        match read_one(rest, at) {
            Ok((kind, length, damage)) => {
                let place = Place::Byte(at);
                reading.found.push(Found { place, kind });
                reading.problem = damage.map(Problem::from);
                at += length;
            }
            Err(problem) => reading.problem = Some(problem),
        }
        if reading.problem.is_some() {
            break;
        }
    }
    reading
}

/// What starts here, the bytes that it has, and what is wrong with it if something is.
fn read_one(rest: &[u8], at: usize) -> Result<(Kind, usize, Option<Error>), Problem> {
    if rest.starts_with(&SIGNATURE) {
        let bytes = Record::read_at(rest, at)?.bytes();
        return Ok((Kind::Record(bytes.to_vec()), bytes.len(), None));
    }
    if Table::is_one(rest) {
        let table = Table::read(rest)?;
        let length = table.header().length.get() as usize;
        return Ok((Kind::Table(rest[..length].to_vec()), length, None));
    }
    // Status blocks have no signature: they are what agrees with itself, or has a section that is known.
    let agrees = StatusBlock::read_at(rest, at).and_then(|block| block.check().map(|()| block));
    match (agrees, StatusBlock::read_at(rest, at)) {
        (Ok(block), _) if is_plausible(&block) || block.is_read() && starts_known(rest) => {
            Ok((block_kind(rest, &block), block.len(), None))
        }
        (Err(damage), Ok(block)) if starts_known(rest) => {
            Ok((block_kind(rest, &block), block.len(), Some(damage)))
        }
        (Err(damage), Err(_)) if starts_known(rest) => Err(damage.into()),
        _ => Err(Problem {
            offset: at,
            reason: "this is no CPER record, error status block, or table HEST, BERT, ERST or EINJ"
                .to_owned(),
        }),
    }
}

fn block_kind(bytes: &[u8], block: &StatusBlock<'_>) -> Kind {
    Kind::Block {
        bytes: bytes[..block.len()].to_vec(),
        logged: None,
    }
}

/// Whether this can be a status block at all: zeroes are one that holds nothing.
fn is_plausible(block: &StatusBlock<'_>) -> bool {
    !matches!(block.header().severity(), Severity::Unknown(_))
        && block.header().block_status.get() >> 14 == 0
        && (block.header().entry_count() > 0 || block.is_empty())
}

/// Whether the first section, if this is a status block, has a type that is known.
fn starts_known(bytes: &[u8]) -> bool {
    let kind = bytes.get(20..36);
    let mut known = section_type::NAMES.iter();
    known.any(|(guid, _)| kind == Some(&guid.bytes()[..]))
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self {
            offset: error.offset,
            reason: error.reason.to_string(),
        }
    }
}
