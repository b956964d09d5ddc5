//! How a scenario describes itself, so that the host can boot a machine that suits it without knowing it.

use serde::{Deserialize, Serialize};

/// What the host knows of a scenario before running it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ScenarioInfo {
    /// Path-like: `family/case`. What `cargo xtask lab NAME` selects, with wildcards.
    pub name: String,
    /// The sentence that the scenario proves.
    pub proves: String,
    /// The machine that it needs.
    pub needs: Needs,
    /// When it is run without being named.
    pub set: Set,
}

/// When a scenario runs without being named on the command line.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Set {
    /// With every run of the lab.
    Default,
    /// With `--all`.
    All,
    /// Never: it fails on purpose, to test that the lab notices.
    Broken,
}

/// The machine that a scenario needs. Scenarios with the same processor share a boot as far as the memory goes.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Needs {
    /// The processor, which decides how the guest kernel reads a machine check.
    pub cpu: Cpu,
    /// Free 2 MiB pages at the start of the scenario.
    pub huge_2m: u32,
    /// 1 GiB pages, reserved when the machine boots; the scenario may lose them.
    pub huge_1g: u32,
    /// Seconds until it counts as hung.
    pub seconds: u32,
    /// Whether it gets a boot of its own.
    pub alone: bool,
    /// Whether it needs persistent memory, which it must have to itself: a boot of its own.
    pub persistent: bool,
    /// Whether it runs virtual machines of its own: the machine then carries a VMM, QEMU, and a guest for them.
    pub guests: bool,
    /// How often it may be tried if the kernel died of the emulator's timing, which is no finding.
    pub tries: u32,
}

impl Needs {
    /// No huge pages, any company, and three minutes: a machine that others work on as well is slow.
    pub const NOTHING: Self = Self {
        cpu: Cpu::Amd,
        huge_2m: 0,
        huge_1g: 0,
        seconds: 180,
        alone: false,
        persistent: false,
        guests: false,
        tries: 3,
    };

    /// So many free 2 MiB pages.
    #[must_use]
    pub const fn huge_2m(self, pages: u32) -> Self {
        Self {
            huge_2m: pages,
            ..self
        }
    }

    /// So many 1 GiB pages.
    #[must_use]
    pub const fn huge_1g(self, pages: u32) -> Self {
        Self {
            huge_1g: pages,
            ..self
        }
    }

    /// This processor.
    #[must_use]
    pub const fn cpu(self, cpu: Cpu) -> Self {
        Self { cpu, ..self }
    }

    /// So many seconds until it counts as hung.
    #[must_use]
    pub const fn seconds(self, seconds: u32) -> Self {
        Self { seconds, ..self }
    }

    /// Persistent memory, in a boot of its own.
    #[must_use]
    pub const fn persistent(self) -> Self {
        Self {
            persistent: true,
            alone: true,
            ..self
        }
    }

    /// A machine that carries what runs virtual machines.
    #[must_use]
    pub const fn guests(self) -> Self {
        Self {
            guests: true,
            ..self
        }
    }

    /// So many tries if the kernel dies of the emulator's timing.
    #[must_use]
    pub const fn tries(self, tries: u32) -> Self {
        Self { tries, ..self }
    }

    /// A boot of its own.
    #[must_use]
    pub const fn alone(self) -> Self {
        Self {
            alone: true,
            ..self
        }
    }
}

/// The processor that the machine pretends to have.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cpu {
    /// With virtual machines inside (nested SVM), so that `/dev/kvm` works.
    Amd,
    /// With machine checks that a kernel can recover from (`MCG_SER_P`), which the emulated AMD model lacks.
    Intel,
}
