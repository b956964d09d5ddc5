//! What a scenario and the walker tell each other. The walker is process 1 of a guest that a VMM under test runs: it owns most of the guest's memory, and checks and writes all of it over and over. Messages are JSON lines over the guest's second serial port, as those between the lab's host and its machine are.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// From the scenario.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Check everything once more, from the beginning, and tell what came of it: [`Word::Survey`].
    Survey,
    /// Name a page frame that is used so: [`Word::Frame`].
    Locate {
        /// What for.
        what: Use,
        /// Which of them: another number names another page, far from the others where there are many.
        number: u64,
    },
    /// What the kernel's `/proc/kpageflags` says of a frame: [`Word::Flags`].
    Flags {
        /// The frame's number.
        frame: u64,
    },
    /// Stop checking, and say so: [`Word::Done`].
    Hold,
    /// Check again, where each thread first reads the page that is named for it, all at the same instant: [`Word::Done`] when they do.
    Go {
        /// Pages that the walker named, one for each of the first threads. None: just go on.
        together: Vec<u64>,
    },
    /// Write the dirty file to its disk, and say whether that went well: [`Word::Done`].
    Sync,
    /// Wait until the kernel has logged so many lines with this text since its boot, or logs nothing any more for half a minute, and give all of them: [`Word::Log`].
    Await {
        /// What to look for.
        text: String,
        /// How many lines to wait for; with none, those are given that there are.
        lines: usize,
    },
    /// Start the machine again. Nothing is said but the next boot's [`Word::Hello`].
    Restart,
    /// Switch the machine off.
    PowerOff,
}

/// What a page frame is used for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// The walker's own memory.
    Walker,
    /// A file's page that is the same as on the disk.
    CleanCache,
    /// A file's page that is newer than on the disk.
    DirtyCache,
    /// Nobody's: it was allocated and given back.
    Free,
    /// The kernel's instructions.
    KernelText,
    /// The kernel's small objects.
    Slab,
}

/// From the walker.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub enum Word {
    /// It is up, owns its memory and checks it. Sent once a boot.
    Hello {
        /// `uname -r`.
        kernel: String,
        /// The processor's vendor, as `/proc/cpuinfo` has it.
        vendor: String,
        /// Processors, each with a thread that checks.
        cpus: u32,
        /// Bytes that it owns and checks.
        owned: u64,
        /// What could not be set up.
        troubles: Vec<String>,
    },
    /// What came of everything since the boot.
    Survey(Survey),
    /// A page frame.
    Frame {
        /// Its number; the physical address is 4096 times that.
        frame: u64,
    },
    /// Flags, as in the kernel's `include/uapi/linux/kernel-page-flags.h`.
    Flags {
        /// One bit each.
        flags: u64,
    },
    /// Lines of the kernel's log.
    Log {
        /// In the order in which they were logged, bare.
        lines: Vec<String>,
    },
    /// What was ordered is done, or could not be.
    Done {
        /// Why not.
        error: Option<String>,
    },
}

/// What the walker has seen since the boot. It is as short as it can be: each of its bytes is an exit from the guest, which is slow where the host is emulated.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Survey {
    /// Times that each thread has been through its share, at least.
    pub rounds: u64,
    /// Values checked, of 8 bytes each.
    pub values: u64,
    /// Values that were not what was last written there.
    pub wrong: u64,
    /// The first place where one was, if any was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_wrong: Option<String>,
    /// SIGBUS signals, in the order in which they came.
    pub signals: Vec<Signal>,
    /// `HardwareCorrupted` of `/proc/meminfo`, in KiB.
    pub hardware_corrupted_kb: u64,
    /// The frames that the kernel has called failed.
    pub failures: BTreeSet<u64>,
}

/// A SIGBUS; `[frame, code, what]` on the line.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(from = "(u64, i32, Use)", into = "(u64, i32, Use)")]
pub struct Signal {
    /// The frame that was at its address.
    pub frame: u64,
    /// `si_code`: 4 is action required, 5 action optional.
    pub code: i32,
    /// What the walker used the page for.
    pub what: Use,
}

impl From<(u64, i32, Use)> for Signal {
    fn from((frame, code, what): (u64, i32, Use)) -> Self {
        Self { frame, code, what }
    }
}

impl From<Signal> for (u64, i32, Use) {
    fn from(signal: Signal) -> Self {
        (signal.frame, signal.code, signal.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{decode, encode};

    #[test]
    fn a_survey_of_128_losses_is_a_few_kilobytes() {
        let frames = (0..128).map(|number| 51_667 + 549 * number);
        let signal = |frame| Signal {
            frame,
            code: 4,
            what: Use::Walker,
        };
        let survey = Word::Survey(Survey {
            signals: frames.clone().map(signal).collect(),
            failures: frames.collect(),
            ..Survey::default()
        });
        let line = encode(&survey);
        assert!(line.len() < 4096, "{} bytes", line.len());
        assert_eq!(decode::<Word>(&line).unwrap(), survey);
    }
}
