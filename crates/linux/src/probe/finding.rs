//! One line of a diagnosis.

use serde::Serialize;

/// One thing about a host that matters for recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name for scripts, which stays the same. Findings on several things of one kind share it.
    pub id: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// What was looked at.
    pub title: String,
    /// What was found.
    pub found: String,
    /// What that means for recovery.
    pub means: String,
    /// What to do, with commands in backquotes; `None` where there is nothing to do.
    pub advice: Option<String>,
    /// How much it matters.
    pub level: Level,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing; recovery is the same with or without it.
    Note,
    /// Recovery does less, or less well, than it could.
    Limits,
    /// No mend of any kind is possible.
    Blocks,
}

/// The chapters of a diagnosis, in reading order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// What the kernel does with an error, and what it lets this process do.
    Kernel,
    /// Where guests live and where new memory comes from.
    Memory,
    /// Taking over page faults.
    Userfaultfd,
    /// Telling guests.
    Virtualization,
    /// Who reports errors, and who acts on them besides pagemend.
    Firmware,
    /// What has happened since boot.
    Counters,
    /// What could not be read.
    Probe,
}

impl Group {
    /// A heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Kernel => "Kernel",
            Self::Memory => "Memory",
            Self::Userfaultfd => "Userfaultfd",
            Self::Virtualization => "Virtualization",
            Self::Firmware => "Firmware and error daemons",
            Self::Counters => "Errors since boot",
            Self::Probe => "Not understood",
        }
    }
}

impl Finding {
    pub(super) fn new(
        group: Group,
        id: &'static str,
        title: impl Into<String>,
        found: impl Into<String>,
        level: Level,
        means: impl Into<String>,
    ) -> Self {
        Self {
            id,
            group,
            title: title.into(),
            found: found.into(),
            means: means.into(),
            advice: None,
            level,
        }
    }

    pub(super) fn advise(self, advice: impl Into<String>) -> Self {
        Self {
            advice: Some(advice.into()),
            ..self
        }
    }
}
