//! What the kernel does about memory failures when nobody mends: the baseline that a mend is
//! compared with, measured on the real thing.

use std::io;

use pagemend_core::address::{FRAME_SIZE, HvaRange, PageSize};

use crate::host::LookingGlass;
use crate::mapping::advise;
use crate::memory::GuestMemory;

/// Makes the frames at `offsets` of `memory` fail (`MADV_HWPOISON`), and gives the bytes that
/// cannot be read any more.
///
/// For a process of its own: its SIGBUS is ignored from then on, where the kernel would end it
/// otherwise, and the memory is out of use until the machine is booted again. Needs CAP_SYS_ADMIN
/// and `CONFIG_MEMORY_FAILURE`.
pub fn bytes_lost(memory: &GuestMemory, offsets: &[u64]) -> io::Result<u64> {
    // SAFETY: gives pages to memory that nobody refers to.
    unsafe { advise(memory.hva(), memory.len(), libc::MADV_POPULATE_WRITE) }?;
    survive_sigbus()?;
    let glass = LookingGlass::new()?;
    let all = HvaRange::new(memory.hva(), memory.len()).ok_or(io::ErrorKind::InvalidInput)?;
    for offset in offsets {
        let frame = all.at(*offset).ok_or(io::ErrorKind::InvalidInput)?.frame();
        // A frame may be gone already, with its page.
        if glass.readable(frame) {
            // SAFETY: what the frame held is to be lost, which is the point.
            unsafe { advise(frame, PageSize::SIZE_4K.bytes(), libc::MADV_HWPOISON) }?;
        }
    }
    let lost = all.frames().filter(|frame| !glass.readable(*frame)).count();
    Ok(lost as u64 * FRAME_SIZE)
}

/// The process that injects is sent a SIGBUS for it, which cannot be ignored, only handled.
fn survive_sigbus() -> io::Result<()> {
    extern "C" fn go_on(_: libc::c_int) {}
    let handler: extern "C" fn(libc::c_int) = go_on;
    // SAFETY: the handler does nothing, and nothing here touches the memory except through the
    // kernel, so no fault repeats for ever.
    match unsafe { libc::signal(libc::SIGBUS, handler as libc::sighandler_t) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
