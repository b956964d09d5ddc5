//! The messages and their form on the wire.

use crate::{Assertion, Measurement, Verdict};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// From the guest.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The guest is up and waits for a command. Sent once a boot.
    Hello {
        /// `uname -r`.
        kernel: String,
        /// `uname -m`.
        arch: String,
        /// What could not be set up; scenarios that need it will say so again.
        troubles: Vec<String>,
    },
    /// The scenario says what it does next.
    Step {
        /// What.
        text: String,
    },
    /// The scenario saw something.
    Measurement(Measurement),
    /// The scenario claims something.
    Assertion(Assertion),
    /// The scenario wants an error in physical memory. The host replies with [`Command::Done`].
    Raise(MachineCheck),
    /// The scenario is through, in its own opinion.
    Verdict {
        /// That opinion.
        verdict: Verdict,
        /// Its reason.
        reason: Option<String>,
    },
    /// The scenario's process is gone; its kernel log follows from before this message. The guest waits for a command.
    Ended {
        /// Empty if it exited with 0, else how it died.
        died: Option<String>,
        /// What the kernel said while it ran.
        kernel_log: Vec<String>,
    },
}

/// From the host.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Run a scenario.
    Run {
        /// Its name.
        scenario: String,
    },
    /// What was asked for is done, or could not be.
    Done {
        /// Why not.
        error: Option<String>,
    },
    /// Switch the machine off.
    PowerOff,
}

/// A machine check as the emulated hardware raises it: the fields of x86's machine-check banks.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct MachineCheck {
    /// The processor that is told.
    pub cpu: u32,
    /// `MCi_STATUS`.
    pub status: u64,
    /// `MCG_STATUS`.
    pub mcg_status: u64,
    /// `MCi_ADDR`: the physical address of the error.
    pub address: u64,
    /// `MCi_MISC`: 0x8c says that the address is physical and good to 4 KiB.
    pub misc: u64,
    /// Whether all processors are told that one of them was, as Intel's are.
    pub broadcast: bool,
}

/// A message as one line, with its line end.
///
/// # Panics
/// Never: the messages hold nothing that JSON cannot.
#[must_use]
pub fn encode(message: &impl Serialize) -> String {
    let mut line =
        serde_json::to_string(message).expect("messages hold only text, numbers and lists");
    line.push('\n');
    line
}

/// The message in a line.
///
/// # Errors
/// The line is not such a message.
pub fn decode<T: DeserializeOwned>(line: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_and_comes_back_the_same() {
        let event = Event::Step {
            text: "two\nlines \u{1f4a5}".into(),
        };
        let line = encode(&event);
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(decode::<Event>(&line).unwrap(), event);
    }

    #[test]
    fn half_a_line_is_an_error() {
        let line = encode(&Command::Run {
            scenario: "a/b".into(),
        });
        assert!(decode::<Command>(&line[..line.len() / 2]).is_err());
    }
}
