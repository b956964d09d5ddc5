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

/// How many of a file's pages of 4 KiB can be read, and whether all of them read as written.
pub(crate) fn readable(file: &OwnedFd, len: usize) -> Result<String> {
    /// Large reads: each one looks through the rest of a poisoned huge page.
    const AT_ONCE: usize = 64 << 20;
    let mut buffer = vec![0u64; AT_ONCE.min(len) / 8];
    let (mut lost, mut wrong) = (0, 0);
    for start in (0..len).step_by(AT_ONCE) {
        let range = start..len.min(start + AT_ONCE);
        let missing = salvage(file, range.clone(), buffer.as_mut_ptr() as usize)?;
        lost += missing.len();
        for page in range.step_by(KIB_4).filter(|page| !missing.contains(page)) {
            let words = &buffer[(page - start) / 8..][..KIB_4 / 8];
            let as_written = words
                .iter()
                .zip((page..).step_by(8))
                .all(|(found, offset)| *found == crate::pattern::word(offset));
            wrong += usize::from(!as_written);
        }
    }
    let pages = len / KIB_4;
    Ok(match wrong {
        0 => format!("{} of {pages}", pages - lost),
        _ => format!("{} of {pages}, {wrong} wrong", pages - lost),
    })
}

fn read_at(file: &OwnedFd, offset: usize, len: usize, target: usize) -> io::Result<usize> {
    // SAFETY: callers pass memory that is theirs to overwrite, a mapping of the scenario or a buffer, of at least `len` bytes.
    let read = unsafe { libc::pread(file.as_raw_fd(), target as *mut _, len, offset as i64) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}
