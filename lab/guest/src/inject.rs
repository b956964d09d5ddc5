//! The ways to break memory.

use crate::faults::{self, Fault};
use crate::{memory, pages};
use anyhow::{Context, Result};
use std::fs;
use std::io;

/// `madvise(MADV_HWPOISON)` on the 4 KiB at an address: as if this thread had touched a bad byte. Gives the signal that came with it.
pub(crate) fn madvise(address: usize) -> (io::Result<()>, Option<Fault>) {
    faults::catching(|| memory::advise(address, memory::KIB_4, libc::MADV_HWPOISON))
}

/// As [`madvise`], while other threads touch the page: the kernel may then find it still in use and say `EBUSY`, and has taken it away all the same. Gives what it said.
pub(crate) fn madvise_in_use(address: usize) -> Result<&'static str> {
    match madvise(address).0 {
        Ok(()) => Ok("recovered"),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok("still in use (EBUSY)"),
        Err(error) => Err(error).context("cannot poison"),
    }
}

/// A scrubber's find in the page frame behind an address, which must be mapped and present. Gives the frame.
pub(crate) fn corrupt(address: usize) -> Result<u64> {
    let frame = pages::frame(address)?.context("nothing is mapped there to corrupt")?;
    corrupt_frame(frame)?;
    Ok(frame)
}

/// A scrubber's find in a page frame. When it returns, the kernel has dealt with it.
pub(crate) fn corrupt_frame(frame: u64) -> Result<()> {
    fs::write(
        "/sys/kernel/debug/hwpoison/corrupt-pfn",
        format!("{frame:#x}"),
    )
    .with_context(|| format!("cannot corrupt frame {frame:#x} (is hwpoison-inject loaded?)"))
}
