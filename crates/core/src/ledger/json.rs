//! The ledger as JSON, for people and for programs that are not ours. `docs/ledger.md` describes the
//! schema.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    Cause, Enforcement, Ledger, binary::MAX_FIRST_GENERATION, decode_error::DecodeError,
    frame_set::FrameSet, log::Log, log::MAX_CHUNK, log::Record, recipients::Recipient,
};
use crate::address::FRAME_SIZE;

/// The name and version of the ledger's JSON schema.
pub const SCHEMA: &str = "pagemend.ledger/1";

/// A ledger as it is written, with the losses as an iterator, and as it is read, with a list.
#[derive(Serialize, Deserialize)]
struct Document<Losses> {
    schema: Schema,
    first_generation: u64,
    lost_bytes: u64,
    losses: Losses,
    recipients: Vec<Told>,
}

/// Consecutive frames that were lost one after the other for the same cause in one millisecond, and
/// that the same one keeps from being used.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Run {
    generation: u64,
    gpa: u64,
    frames: u32,
    cause: Cause,
    time_ms: u64,
    #[serde(default)]
    enforcement: Enforcement,
}

#[derive(Serialize, Deserialize)]
struct Told {
    name: String,
    told_before: u64,
    told_ahead: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[derive(Clone)]
struct Schema;

impl From<Schema> for String {
    fn from(_: Schema) -> Self {
        SCHEMA.to_owned()
    }
}

impl TryFrom<String> for Schema {
    type Error = DecodeError;

    fn try_from(found: String) -> Result<Self, DecodeError> {
        match found == SCHEMA {
            true => Ok(Self),
            false => Err(DecodeError::UnsupportedSchema {
                found,
                supported: SCHEMA,
            }),
        }
    }
}

/// The losses of a ledger, written without a copy of them.
struct Losses<'a>(&'a Ledger);

impl Serialize for Losses<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(runs(self.0))
    }
}

fn runs(ledger: &Ledger) -> impl Iterator<Item = Run> {
    let mut records = ledger.log.since(0).peekable();
    std::iter::from_fn(move || {
        let (generation, first) = records.next()?;
        let enforcement = ledger.enforcement_of(first.frame);
        let mut frames = 1;
        while frames < MAX_CHUNK {
            let next = Record {
                frame: first.frame + u64::from(frames),
                ..first
            };
            let goes_on = |record: Record| {
                record == next && ledger.enforcement_of(record.frame) == enforcement
            };
            if records.next_if(|&(_, record)| goes_on(record)).is_none() {
                break;
            }
            frames += 1;
        }
        Some(Run {
            generation,
            gpa: first.frame * FRAME_SIZE,
            frames,
            cause: first.cause,
            time_ms: first.millis,
            enforcement,
        })
    })
}

impl Serialize for Ledger {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let told = |recipient: &Recipient| Told {
            name: recipient.name.clone(),
            told_before: recipient.cursor,
            told_ahead: recipient.ahead.clone(),
        };
        Document {
            schema: Schema,
            first_generation: self.first_generation().get(),
            lost_bytes: self.lost_bytes(),
            losses: Losses(self),
            recipients: self.recipients.iter().map(told).collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Ledger {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Document::<Vec<Run>>::deserialize(deserializer)?;
        Ledger::try_from(document).map_err(de::Error::custom)
    }
}

impl TryFrom<Document<Vec<Run>>> for Ledger {
    type Error = DecodeError;

    fn try_from(document: Document<Vec<Run>>) -> Result<Self, DecodeError> {
        let inconsistent = |generation, reason| DecodeError::Inconsistent { generation, reason };
        let first = document.first_generation;
        if first > MAX_FIRST_GENERATION {
            let reason = "a generation beyond what memory can lose";
            return Err(inconsistent(first, reason));
        }
        let mut log = Log::starting_at(first);
        let mut entrusted = FrameSet::default();
        for run in document.losses {
            let generation = log.generations().end;
            if run.generation != generation {
                return Err(inconsistent(generation, "losses out of order"));
            }
            if !(1..=MAX_CHUNK).contains(&run.frames) {
                return Err(inconsistent(generation, "a run of no frames or too many"));
            }
            if run.gpa % FRAME_SIZE != 0 {
                return Err(inconsistent(generation, "an address inside a frame"));
            }
            let frame = run.gpa / FRAME_SIZE;
            let frames = frame..frame + u64::from(run.frames);
            log.push_run(frames.clone(), run.cause, run.time_ms);
            if run.enforcement == Enforcement::Guest {
                entrusted.fill(frames);
            }
        }
        let told = |told: Told| Recipient {
            name: told.name,
            cursor: told.told_before,
            ahead: told.told_ahead,
        };
        let recipients = document.recipients.into_iter().map(told).collect();
        let ledger = Self::from_history(log, recipients, entrusted)?;
        match ledger.lost_bytes() == document.lost_bytes {
            true => Ok(ledger),
            false => Err(inconsistent(
                first,
                "lost bytes that are not those of the losses",
            )),
        }
    }
}
