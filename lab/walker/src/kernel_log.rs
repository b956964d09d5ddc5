//! The kernel's own words, from when the walker started.

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::{Errno, read};
use std::os::fd::OwnedFd;

/// A place in the kernel log.
pub(crate) struct KernelLog(OwnedFd);

impl KernelLog {
    /// From here on.
    pub(crate) fn from_now() -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = open("/dev/kmsg", flags, Mode::empty()).context("cannot open /dev/kmsg")?;
        seek(&file, SeekFrom::End(0)).context("cannot go to the end of /dev/kmsg")?;
        Ok(Self(file))
    }

    /// The lines since the last call, bare.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next()).collect()
    }

    fn next(&mut self) -> Option<String> {
        // One read is one record; the kernel's limit is 8 KiB with its fields.
        let mut record = [0; 8192];
        loop {
            match read(&self.0, &mut record) {
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
