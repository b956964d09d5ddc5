//! The kernel's own words while a scenario runs, and waiting for some of them: the only sign of what the kernel does on its own time.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::{Errno, read};
use std::os::fd::OwnedFd;
use std::time::Instant;

/// A place in the kernel log.
pub(crate) struct KernelLog {
    file: OwnedFd,
}

impl KernelLog {
    /// From here on.
    pub(crate) fn from_now() -> Result<Self> {
        let file = open(
            "/dev/kmsg",
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .context("cannot open /dev/kmsg")?;
        seek(&file, SeekFrom::End(0)).context("cannot go to the end of /dev/kmsg")?;
        Ok(Self { file })
    }

    /// The lines since the last call, bare.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// Waits for a line that contains `words`.
    pub(crate) fn wait_for(&mut self, words: &str, deadline: Instant) -> Result<String> {
        loop {
            while let Some(line) = self.next() {
                if line.contains(words) {
                    return Ok(line);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the kernel never said `{words}`");
            }
            let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
            let timeout = Timespec::try_from(left).context("a deadline too far away")?;
            poll(&mut fds, Some(&timeout)).context("cannot poll /dev/kmsg")?;
        }
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
