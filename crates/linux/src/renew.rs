//! Fresh memory for a lost frame where it is: its file's, or its mapping's own.

use std::io;

use pagemend_core::address::HvaRange;
use pagemend_core::host::Target;
use pagemend_core::map::Backing;

use crate::host::{LinuxHost, minor_faults};
use crate::mapping::{advise, resident};

impl LinuxHost {
    pub(crate) fn renew_in_place(&mut self, frame: &Target) -> io::Result<()> {
        let range = HvaRange::new(frame.hva, frame.page.len()).expect("it is guest memory");
        let [segment] = &frame.segments[..] else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if let Err(error) = renew(range, segment.backing) {
            // Whatever of it was done, the frame faults again.
            if let Some(uffd) = &self.uffd
                && let Err(error) = uffd.poison_in_use(range, minor_faults(segment.backing))
            {
                tracing::error!(%error, page = %frame.page, "a lost frame is not marked any more");
            }
            return Err(error);
        }
        self.emulation.renewed(range, segment.source);
        Ok(())
    }
}

fn renew(range: HvaRange, backing: Backing) -> io::Result<()> {
    // SAFETY: what the frame held is lost already.
    let advise = |advice| unsafe { advise(range.start(), range.len(), advice) };
    // The mark, or the kernel's, goes first, and with it any lock on what it stands for.
    advise(libc::MADV_DONTNEED_LOCKED)?;
    if backing == Backing::Shmem {
        advise(libc::MADV_REMOVE)?;
        // Of a transparent huge page that cannot be split, the kernel zeroes the bytes and keeps them.
        if resident(range)? {
            return Err(io::Error::other("its file keeps the failed memory"));
        }
    }
    // It was set apart because of the mark.
    advise(libc::MADV_NORMAL)?;
    advise(libc::MADV_POPULATE_WRITE)
}
