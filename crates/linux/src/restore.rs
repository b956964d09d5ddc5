//! Putting a page back as it was, after a swap that failed halfway.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use pagemend_core::address::HvaRange;
use pagemend_core::host::Target;
use pagemend_core::map::{Backing, Segment};

use crate::files::Files;
use crate::host::LinuxHost;
use crate::stage::Stage;

impl LinuxHost {
    /// Says whether it is; otherwise new memory may be in its place.
    pub(crate) fn restore(&mut self, target: &Target) -> bool {
        if self.plot_of(&target.page).is_some() {
            let covered = self.put_shroud_over(target);
            if let Err(error) = &covered {
                tracing::error!(%error, page = %target.page, "memory without a cover: touching it is SIGSEGV");
            }
            return covered.is_ok();
        }
        let range = HvaRange::new(target.hva, target.page.len()).expect("it is guest memory");
        let settings = self.settings_at(target.hva);
        let failed = self.emulation.faults_at(target.hva);
        // Pages of a pool have no marks of ours in them.
        let hugetlb = |part: &Segment| part.backing == Backing::Hugetlb;
        let unmarked = target.marked.is_empty() || target.segments.iter().all(hugetlb);
        let restored = match unmarked {
            true => map_again(target, &self.files).and_then(|()| settings.apply(range)),
            false => self.mark_again(target),
        };
        if failed {
            self.emulation.replaced(range);
            let again = self.emulate_failure(&target.segments[0], target.page.start(), target.hva);
            if let Err(error) = again {
                tracing::error!(%error, page = %target.page, "an emulated failure is gone");
            }
        }
        let back = restored.is_ok();
        if let Err(error) = restored.and_then(|()| settings.lock(range)) {
            tracing::error!(%error, page = %target.page, "a page without memory: touching it is SIGSEGV");
        }
        back
    }

    /// What a mend had put there is staged once more, with its marks.
    fn mark_again(&self, target: &Target) -> io::Result<()> {
        let settings = self.settings_at(target.hva);
        let uffd = self.uffd.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mut stage = Stage::of_what_is_there(&self.files, target.clone(), settings)?;
        stage.mark(&self.files, uffd, &target.marked)?;
        stage.swap(&self.files, Some(uffd), || true).map(drop)
    }
}

fn map_again(target: &Target, files: &Arc<Files>) -> io::Result<()> {
    for segment in &target.segments {
        let Segment { gpa, source, .. } = *segment;
        let source = source.ok_or(io::ErrorKind::NotFound)?;
        let at = target.hva.get() + (gpa.start().get() - target.page.start().get());
        // SAFETY: MAP_FIXED over the guest memory that was there until a moment ago.
        let mapped = unsafe {
            libc::mmap(
                at as *mut _,
                gpa.len() as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE,
                files.get(source.file).as_raw_fd(),
                source.offset as libc::off_t,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
