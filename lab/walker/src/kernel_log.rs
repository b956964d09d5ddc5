//! The kernel's own words, from its first on.

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, read};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

/// When a kernel that logs nothing has no more to say.
const QUIET: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// The kernel log, as far as it was read.
pub(crate) struct KernelLog {
    file: OwnedFd,
    lines: Vec<String>,
}

impl KernelLog {
    /// From the oldest line that there is.
    pub(crate) fn open() -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open("/dev/kmsg", flags, Mode::empty()).context("cannot open /dev/kmsg")?;
        let lines = Vec::new();
        Ok(Self { file, lines })
    }

    /// The lines with `text`, bare, as soon as there are `count` of them, or when nothing more comes.
    pub(crate) fn lines_with(&mut self, text: &str, count: usize) -> Result<Vec<String>> {
        loop {
            while let Some(line) = self.next() {
                self.lines.push(line);
            }
            let found = self.lines.iter().filter(|line| line.contains(text));
            let found: Vec<_> = found.cloned().collect();
            if found.len() >= count {
                return Ok(found);
            }
            let mut news = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut news, Some(&QUIET)) {
                Ok(0) => return Ok(found),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for the kernel's words"),
            }
        }
    }

    /// The frames of which it has said so far that they failed.
    pub(crate) fn failed_frames(&mut self) -> Result<BTreeSet<u64>> {
        let lines = self.lines_with("Memory failure", 0)?;
        Ok(lines.iter().filter_map(|line| failed_frame(line)).collect())
    }

    fn next(&mut self) -> Option<String> {
        // One read is one record; the kernel's limit is 8 KiB with its fields.
        let mut record = [0; 8192];
        loop {
            match read(&self.file, &mut record) {
                // `prefix;text`, then lines of fields that start with a blank.
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    let line = text.lines().next().unwrap_or_default();
                    let bare = line.split_once(';').map_or(line, |(_, bare)| bare);
                    return Some(bare.to_owned());
                }
                // Records were overwritten before we came; go on with the oldest there is.
                Err(Errno::PIPE | Errno::INTR) => {}
                Err(_) => return None,
            }
        }
    }
}

/// The frame in `Memory failure: 0x1a2b: recovery action for …`.
fn failed_frame(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("Memory failure: 0x")?;
    u64::from_str_radix(rest.split(':').next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_name_a_frame() {
        let line = "Memory failure: 0x1a2b: recovery action for dirty LRU page: Recovered";
        assert_eq!(failed_frame(line), Some(0x1a2b));
        assert_eq!(failed_frame("Memory failure: something else"), None);
    }
}
