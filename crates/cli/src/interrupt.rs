//! Ctrl-C and SIGTERM, which end a command where it can clean up after itself.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code after an interruption, as shells give it: 128 and the signal's number.
pub(crate) const INTERRUPTED: u8 = 130;

/// Notes interruptions from now on. Once in a process.
pub(crate) fn noted() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).map_err(io::Error::other)?;
    Ok(interrupted)
}
