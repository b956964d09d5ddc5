//! What becomes of a scenario: the form of `--json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a scenario ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every claim held.
    Pass,
    /// A claim did not hold, or the scenario, its kernel or its machine died.
    Fail,
    /// This kernel or machine cannot run it; the reason says why.
    Skip,
}

/// Something seen, by name.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Measurement {
    /// What was looked at, with the unit if the value is a number of something.
    pub name: String,
    /// What was seen.
    pub value: Value,
}

/// A claim and whether it held.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Assertion {
    /// The claim, as a sentence.
    pub claim: String,
    /// Whether it held.
    pub holds: bool,
    /// What was found, if that says more than yes or no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

/// One scenario on one kernel.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// The scenario.
    pub name: String,
    /// Release of the kernel that it ran on, as `uname -r` gives it; empty if none came up.
    pub kernel: String,
    /// Architecture, as `uname -m` gives it.
    pub arch: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Why, for a failure or a skip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long it ran, without the boot.
    pub seconds: f64,
    /// What it saw, in order.
    pub measurements: Vec<Measurement>,
    /// What it claimed, in order.
    pub assertions: Vec<Assertion>,
    /// What it was doing, in order.
    pub steps: Vec<String>,
    /// What the kernel said meanwhile.
    pub kernel_log: Vec<String>,
}

impl Report {
    /// The value of a measurement as text, if it was made.
    #[must_use]
    pub fn measured(&self, name: &str) -> Option<String> {
        let found = self.measurements.iter().find(|m| m.name == name)?;
        Some(match &found.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }
}
