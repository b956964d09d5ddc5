//! A page that is mended on demand is put under a shroud, and its parts come back one by one.
//!
//! The shroud is what stands between the moves of a mend that takes several: a mapping in which every
//! touch faults, by marks in its page tables. Nothing is registered and nobody has to be there for it
//! to hold: if the mender ends, what has not come back goes on faulting. Whoever touches it waits as
//! everybody waits at a poisoned page.

use std::io;
use std::sync::Arc;

use pagemend_core::address::{GpaRange, HvaRange};
use pagemend_core::host::Target;

use crate::host::LinuxHost;
use crate::stage::{Plot, shroud};

impl LinuxHost {
    pub(crate) fn cover_page(&mut self, target: &Target) -> io::Result<()> {
        let policy = self.numa_policy(target);
        let plot = Plot::new(&self.files, target.page, policy)?;
        let covered = self.put_shroud_over(target);
        covered.inspect_err(|_| {
            self.restore(target);
        })?;
        let range = HvaRange::new(target.hva, target.page.len()).expect("it is guest memory");
        self.emulation.replaced(range);
        self.plots.push(plot);
        Ok(())
    }

    pub(crate) fn put_shroud_over(&self, target: &Target) -> io::Result<()> {
        let uffd = self.uffd.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let mapping = shroud(&Arc::clone(&self.files), uffd, target.page.len())?;
        // SAFETY: guest memory, which nobody has references into: that is what the VMM vouched for
        // when it registered the region.
        unsafe { mapping.move_over(target.hva) }
    }

    /// The plot of the covered page that `part` is of.
    pub(crate) fn plot_of(&self, part: &GpaRange) -> Option<Plot> {
        self.plots.iter().copied().find(|plot| plot.covers(part))
    }

    /// The page is complete, or given up.
    pub(crate) fn forget_plot(&mut self, page: &GpaRange) {
        self.plots.retain(|plot| !plot.covers(page));
    }
}
