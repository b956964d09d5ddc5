//! What the ledger says of one frame: how and when it was lost, where in history, who was told.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::log::Record;
use crate::{
    address::{FRAME_SIZE, Gpa},
    time::Timestamp,
};

/// How a loss was noticed: the kernel's two kinds of memory-failure signal
/// (`include/uapi/asm-generic/siginfo.h`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Somebody touched it: `BUS_MCEERR_AR`.
    ActionRequired,
    /// A scrubber found it: `BUS_MCEERR_AO`.
    ActionOptional,
}

impl Cause {
    pub(super) fn bit(self) -> u64 {
        u64::from(self == Self::ActionOptional)
    }

    pub(super) fn from_bit(bit: u64) -> Self {
        match bit {
            0 => Self::ActionRequired,
            _ => Self::ActionOptional,
        }
    }
}

/// Who sees to it that nobody takes a lost frame for memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// This host: every touch of it faults.
    #[default]
    Host,
    /// The guest, which was told of it: it can be read and written, and holds what it was healed with.
    Guest,
}

/// A point in the ledger's history. Each loss takes one, and so does each [`Ledger::clear`](super::Ledger::clear).
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(u64);

impl Generation {
    /// The point at which `count` losses and clears had happened.
    pub const fn new(count: u64) -> Self {
        Self(count)
    }

    /// How many losses and clears had happened.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The point behind the loss or clear that took this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The loss of one frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Loss {
    /// The frame, by its first byte.
    pub gpa: Gpa,
    /// How it was noticed.
    pub cause: Cause,
    /// When it was recorded, to the millisecond.
    pub time: Timestamp,
    /// The ledger's generation just before it was recorded.
    pub generation: Generation,
}

impl Loss {
    pub(super) fn new((generation, record): (u64, Record)) -> Self {
        Self {
            gpa: Gpa::new(record.frame * FRAME_SIZE),
            cause: record.cause,
            time: Timestamp::from_millis(record.millis)
                .expect("a record's milliseconds are those of a timestamp"),
            generation: Generation::new(generation),
        }
    }
}

/// All that the ledger knows of one frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// Its loss.
    pub loss: Loss,
    /// Who keeps it from being used.
    pub enforcement: Enforcement,
    /// The names of the recipients that were told.
    pub told: Vec<&'a str>,
}
