//! The ladder of page sizes: hugetlb pool, transparent huge page, 4 KiB.
//!
//! Each rung takes what it can of what is left of the page. Memory is only got here; whether a
//! transparent huge page is one is seen when it is mapped.

use std::io;
use std::sync::Arc;

use pagemend_core::address::{HvaRange, PageSize};
use pagemend_core::plan::Reason;

use super::{Part, Stage};
use crate::files::{Extent, Files, Kind};
use crate::mapping::FileView;
use crate::settings::NumaPolicy;

pub(super) const HALF_GIB: u64 = 512 << 20;

impl Stage {
    /// Gets memory for the whole page, rung by rung.
    pub(super) fn climb_down(
        &mut self,
        files: &Arc<Files>,
        policy: Option<NumaPolicy>,
    ) -> io::Result<()> {
        let page = self.target.page.len();
        let into = self
            .plot
            .map_or(0, |plot| plot.offset_of(self.target.page.start()));
        let mut size = self.target.largest;
        let mut at = 0;
        let mut empty_pools = String::new();
        while size.is_huge() && at < page {
            // Never a mapping of 2 MiB pages that covers a GiB: see `shroud`.
            let limit = match size {
                PageSize::SIZE_2M => HALF_GIB - (into + at) % HALF_GIB,
                _ => page,
            };
            let end = page.min(at + limit);
            match self.take_from_pool(files, size, (at, end), policy) {
                Ok(got) => {
                    at += got;
                    if at == end {
                        continue;
                    }
                }
                Err(error) => empty_pools.push_str(&format!("{size} pool: {error}; ")),
            }
            if size == PageSize::SIZE_2M {
                break;
            }
            size = size.next_smaller();
        }
        if at < page {
            self.add(files, (at, page - at), size, Kind::Shmem, policy)?;
        }
        self.note_smaller(self.target.largest, &empty_pools);
        Ok(())
    }

    /// Takes as many pages of `size` from their pool as there are free, for the piece between `at`
    /// and `end`. Gives the bytes it got.
    fn take_from_pool(
        &mut self,
        files: &Arc<Files>,
        size: PageSize,
        (at, end): (u64, u64),
        policy: Option<NumaPolicy>,
    ) -> io::Result<u64> {
        // The policy has to be there before the memory, so the view comes first.
        self.add(files, (at, end - at), size, Kind::Hugetlb(size), policy)?;
        let index = self.extents.len() - 1;
        let offset = self.parts[self.parts.len() - 1].offset;
        let mut got = 0;
        let mut refused = None;
        while at + got < end {
            match self.extents[index].allocate(offset + got, size.bytes()) {
                Ok(()) => got += size.bytes(),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        if got == 0 {
            self.parts.pop();
            self.extents.pop();
            return Err(refused.unwrap_or_else(|| io::ErrorKind::OutOfMemory.into()));
        }
        if let Some(part) = self.parts.last_mut() {
            part.len = got;
        }
        let extent = &self.extents[index];
        let offset = extent.source().offset + offset;
        let view = FileView {
            at,
            len: got,
            offset,
        };
        self.fill().map_present(extent.fd(), view)?;
        Ok(got)
    }

    /// Adds a part, and shows it in the view.
    fn add(
        &mut self,
        files: &Arc<Files>,
        (at, len): (u64, u64),
        page_size: PageSize,
        kind: Kind,
        policy: Option<NumaPolicy>,
    ) -> io::Result<()> {
        let (extent, into) = self.extent(files, kind, (at, len))?;
        let offset = extent.source().offset + into;
        let view = FileView { at, len, offset };
        match kind {
            // It can be accessed once there are pages.
            Kind::Hugetlb(_) => self.fill().map_closed(extent.fd(), view)?,
            Kind::Shmem => self.fill().map(extent.fd(), view)?,
        }
        if let Some(policy) = policy {
            let start = self
                .fill()
                .hva()
                .checked_add(at)
                .expect("it lies in the view");
            let range = HvaRange::new(start, len).expect("it lies in the view");
            policy.apply(range)?;
        }
        self.extents.push(extent);
        self.parts.push(Part {
            at,
            len,
            page_size,
            kind,
            extent: self.extents.len() - 1,
            offset: into,
        });
        Ok(())
    }

    /// An extent for a part, and where in it the part is.
    fn extent(
        &self,
        files: &Arc<Files>,
        kind: Kind,
        (at, len): (u64, u64),
    ) -> io::Result<(Extent, u64)> {
        let Some(plot) = self.plot else {
            // As long as the page, and the part at the same place as in that, so that no two extents
            // of it go on in one another.
            return Ok((files.extent(kind, self.target.page.len())?, at));
        };
        let offset = plot.offset_of(self.target.page.start()) + at;
        let place = plot.place(kind, offset).ok_or(io::ErrorKind::Unsupported)?;
        Ok((Extent::at(files, place, len), 0))
    }

    /// Notes what got smaller pages than fit, and why.
    pub(super) fn note_smaller(&mut self, wanted: PageSize, why: &str) {
        for part in self.parts.iter().filter(|part| part.page_size < wanted) {
            self.reasons.push(Reason::SmallerPages {
                wanted,
                got: part.page_size,
                bytes: part.len,
                why: why.trim_end_matches("; ").to_owned(),
            });
        }
    }
}
