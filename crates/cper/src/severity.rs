//! How bad an error is.

use core::fmt;

/// Severity of an error, of a record or of one of its sections (UEFI 2.10, N.2.1 and N.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// 0: uncorrected, and the system can go on if what was hit is given up.
    Recoverable,
    /// 1: uncorrected, and the system cannot go on.
    Fatal,
    /// 2: the hardware corrected it.
    Corrected,
    /// 3: no error, a notice.
    Informational,
    /// A number that the specification does not define.
    Unknown(u32),
}

impl Severity {
    /// The name that people and the JSON form use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recoverable => "Recoverable",
            Self::Fatal => "Fatal",
            Self::Corrected => "Corrected",
            Self::Informational => "Informational",
            Self::Unknown(_) => "Unknown",
        }
    }
}

impl From<u32> for Severity {
    fn from(value: u32) -> Self {
        match value {
            0 => Self::Recoverable,
            1 => Self::Fatal,
            2 => Self::Corrected,
            3 => Self::Informational,
            other => Self::Unknown(other),
        }
    }
}

impl From<Severity> for u32 {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Recoverable => 0,
            Severity::Fatal => 1,
            Severity::Corrected => 2,
            Severity::Informational => 3,
            Severity::Unknown(other) => other,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(value) => write!(f, "unknown severity {value}"),
            known => f.write_str(known.name()),
        }
    }
}
