//! Memory failures as a scrubber finds them: the kernel is told of a bad page frame through the
//! module hwpoison-inject, and nobody has touched it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use pagemend_core::address::{FRAME_SIZE, Gpa, Hva, PageSize};
use pagemend_core::ledger::Cause;

use super::Shared;
use super::inject::{Inject, InjectError, locate_in};
use crate::intake::slot;
use crate::mapping::advise;

/// Where the module takes frame numbers (mm/hwpoison-inject.c).
const CORRUPT_PFN: &str = "/sys/kernel/debug/hwpoison/corrupt-pfn";
/// There on every kernel with CONFIG_MEMORY_FAILURE, and on no other.
const EARLY_KILL: &str = "/proc/sys/vm/memory_failure_early_kill";
const PAGEMAP: &str = "/proc/self/pagemap";

/// Errors that the kernel is told of by their page frame.
pub struct CorruptPfn {
    shared: Arc<Shared>,
}

impl CorruptPfn {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Inject for CorruptPfn {
    fn name(&self) -> &'static str {
        "corrupt-pfn"
    }

    /// To the kernel nobody has touched the frame: it is an action optional whatever `cause` says,
    /// and the mender has dealt with it when this returns.
    fn inject(&self, gpa: Gpa, _cause: Cause) -> Result<(), InjectError> {
        let injector = open_injector()?;
        {
            // Held all the while: the frame stays the guest's until the kernel has taken it away.
            let mender = self.shared.mender();
            let hva = locate_in(&mender, gpa)?.align_down(PageSize::SIZE_4K);
            let frame = frame_of(hva)?;
            tell(injector, frame)?;
        }
        slot::settle();
        Ok(())
    }
}

fn open_injector() -> Result<File, InjectError> {
    if !Path::new(EARLY_KILL).exists() {
        return Err(InjectError::NoMemoryFailure);
    }
    let opened = OpenOptions::new().write(true).open(CORRUPT_PFN);
    opened.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => InjectError::NoInjector { file: CORRUPT_PFN },
        io::ErrorKind::PermissionDenied => InjectError::NotPermitted { call: CORRUPT_PFN },
        _ => InjectError::Call {
            call: CORRUPT_PFN,
            source,
        },
    })
}

/// The page frame behind an address, with memory if it has had none yet.
fn frame_of(hva: Hva) -> Result<u64, InjectError> {
    let call = |call| move |source| InjectError::Call { call, source };
    // For writing, because reading may map a zero page that is not the guest's.
    // SAFETY: the page's contents stay as they are.
    unsafe { advise(hva, FRAME_SIZE, libc::MADV_POPULATE_WRITE) }
        .map_err(call("madvise(MADV_POPULATE_WRITE)"))?;
    let mut entry = [0; 8];
    File::open(PAGEMAP)
        .and_then(|pagemap| pagemap.read_exact_at(&mut entry, hva.get() / FRAME_SIZE * 8))
        .map_err(call(PAGEMAP))?;
    match frame_in(u64::from_le_bytes(entry)) {
        Some(0) => Err(InjectError::NotPermitted { call: PAGEMAP }),
        Some(frame) => Ok(frame),
        None => Err(call(PAGEMAP)(io::Error::from(io::ErrorKind::NotFound))),
    }
}

/// The frame that an entry of pagemap names, which is 0 for whoever may not know it; none where
/// nothing is mapped (Documentation/admin-guide/mm/pagemap.rst).
fn frame_in(entry: u64) -> Option<u64> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    (entry & PRESENT != 0).then_some(entry & FRAME)
}

fn tell(mut injector: File, frame: u64) -> Result<(), InjectError> {
    match injector.write_all(format!("{frame:#x}").as_bytes()) {
        Ok(()) => Ok(()),
        // What it says where the page is in use meanwhile, or cannot be split, and is taken away
        // all the same.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EHWPOISON)) => Ok(()),
        Err(source) => Err(InjectError::Call {
            call: CORRUPT_PFN,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_a_frame_only_where_something_is_mapped() {
        assert_eq!(frame_in(1 << 63 | 1 << 55 | 0x1_2345), Some(0x1_2345));
        assert_eq!(frame_in(1 << 63), Some(0));
        assert_eq!(frame_in(0x1_2345), None);
        assert_eq!(frame_in(1 << 62 | 0x1_2345), None);
    }
}
