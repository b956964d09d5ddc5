//! Reading what is left of a poisoned page through its file.

use crate::memory::KIB_4;
use anyhow::{Context, Result, bail};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

/// Reads a range of a file to `target` in memory, 4 KiB being the least that can be missing, and gives the offsets in the file of what was.
pub(crate) fn salvage(file: &OwnedFd, range: Range<usize>, target: usize) -> Result<Vec<usize>> {
    let mut lost = Vec::new();
    let mut at = range.start;
    while at < range.end {
        match read_at(file, at, range.end - at, target + at - range.start) {
            Ok(0) => bail!("the file ends at {at:#x}, before its memory does"),
            Ok(read) => at += read,
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                lost.push(at);
                at += KIB_4;
            }
            Err(error) => return Err(error).context("cannot read the poisoned file"),
        }
    }
    Ok(lost)
}

/// What reading the 4 KiB at an offset gives, in words.
pub(crate) fn tell_read(file: &OwnedFd, offset: usize) -> String {
    let mut page = vec![0u64; KIB_4 / 8];
    match read_at(file, offset, KIB_4, page.as_mut_ptr() as usize) {
        Ok(KIB_4) => crate::pattern::tell(Ok(page[0]), offset),
        Ok(short) => format!("{short} bytes"),
        Err(error) => match error.raw_os_error() {
            Some(libc::EIO) => "EIO".into(),
            _ => error.to_string(),
        },
    }
}

fn read_at(file: &OwnedFd, offset: usize, len: usize, target: usize) -> io::Result<usize> {
    // SAFETY: callers pass memory that is theirs to overwrite, a mapping of the scenario or a buffer, of at least `len` bytes.
    let read = unsafe { libc::pread(file.as_raw_fd(), target as *mut _, len, offset as i64) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}
