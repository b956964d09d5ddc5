//! What the lab's guest and host tell each other: JSON, one message a line, over a channel that nothing else uses.
//!
//! The console is not part of it: what the kernel prints there is kept apart and scanned by the host, so that a kernel that talks cannot be mistaken for a scenario that reports.

mod message;
mod result;
mod scenario;
pub mod walker;

/// How the step of a scenario begins that starts a guest again, so that a summary can count them.
pub const STARTED_AGAIN: &str = "once more, for nothing has failed yet";

pub use message::{Command, Event, MachineCheck, decode, encode};
pub use result::{Assertion, Measurement, Report, Verdict};
pub use scenario::{Cpu, Needs, ScenarioInfo, Set};
