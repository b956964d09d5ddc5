//! The views that become the guest's: made at addresses of ours, finished there, then moved.
//!
//! A move replaces what it covers for all threads at once, and takes one mapping. New memory that
//! is one mapping needs no more than that. Where it is several, a shroud goes first: a mapping in
//! which every touch faults, so that everyone goes on waiting exactly as at the poisoned page,
//! until the piece that they touch has been moved over it.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use pagemend_core::address::{HvaRange, PageSize};
use pagemend_core::plan::Reason;

use super::marks::{gaps, overlap};
use super::{Part, Stage};
use crate::files::{Files, Kind};
use crate::mapping::{FileView, Mapping, advise, collapse};
use crate::uffd::Uffd;

/// A mapping that will be moved to `at` bytes into the page.
#[derive(Debug)]
pub(super) struct View {
    pub(super) at: u64,
    pub(super) mapping: Mapping,
}

impl View {
    fn range(&self, (at, len): (u64, u64)) -> HvaRange {
        let start = self.mapping.hva().checked_add(at - self.at);
        start
            .and_then(|start| HvaRange::new(start, len))
            .expect("it lies in the view")
    }
}

impl Stage {
    /// Makes the views. With `lost`, the memory was filled but for these runs; without, it is
    /// fresh and stays empty.
    pub(super) fn prepare(
        &mut self,
        files: &Arc<Files>,
        uffd: Option<&Uffd>,
        lost: Option<&[(u64, u64)]>,
    ) -> io::Result<()> {
        let page = self.target.page.len();
        if let [part] = self.parts[..]
            && part.kind != Kind::Shmem
            && let Some(mapping) = self.fill.take()
        {
            // Nothing in it can be marked: where it was filled it is complete.
            let view = View { at: 0, mapping };
            self.finish(&view, 0..1, uffd, lost)?;
            self.views.push(view);
            return Ok(());
        }
        let mut index = 0;
        while index < self.parts.len() {
            let first = self.parts[index];
            let run = self.parts[index..]
                .iter()
                .take_while(|part| {
                    part.extent == first.extent && part.offset - first.offset == part.at - first.at
                })
                .count();
            let last = self.parts[index + run - 1];
            let view = self.view_of(&first, last.at + last.len - first.at)?;
            index = self.finish(&view, index..index + run, uffd, lost)?;
            self.views.push(view);
        }
        if self.views.len() > 1 && self.plot.is_some() {
            // Once the first is in place it can be written to, and is part of a run that may still fail.
            return Err(io::Error::other("the part would be several mappings"));
        }
        if self.views.len() > 1 {
            let uffd = uffd.ok_or(io::ErrorKind::Unsupported)?;
            self.views.insert(
                0,
                View {
                    at: 0,
                    mapping: shroud(files, uffd, page)?,
                },
            );
        }
        Ok(())
    }

    /// The extent of `first`, `len` bytes from there on.
    fn view_of(&self, first: &Part, len: u64) -> io::Result<View> {
        let extent = &self.extents[first.extent];
        // A huge page can only be mapped where address and file offset agree in their low bits.
        let alignment = PageSize::from_bytes(len).unwrap_or(first.page_size);
        let mapping = Mapping::reserve(len, alignment)?;
        let offset = extent.source().offset + first.offset;
        let view = FileView { at: 0, len, offset };
        match first.kind {
            // Its pages are there, and none is marked.
            Kind::Hugetlb(_) => mapping.map_present(extent.fd(), view)?,
            Kind::Shmem => mapping.map(extent.fd(), view)?,
        }
        Ok(View {
            at: first.at,
            mapping,
        })
    }

    /// Settings, pages and marks of a view. Gives the first part behind it: its own may have become
    /// more.
    fn finish(
        &mut self,
        view: &View,
        parts: Range<usize>,
        uffd: Option<&Uffd>,
        lost: Option<&[(u64, u64)]>,
    ) -> io::Result<usize> {
        let whole = view.range((view.at, view.mapping.len()));
        self.settings.apply(whole)?;
        let small: Vec<_> = self.parts[parts.clone()]
            .iter()
            .filter(|part| !part.page_size.is_huge())
            .map(span)
            .collect();
        let (mut index, mut behind) = (parts.start, parts.end);
        while index < behind {
            let became = match self.parts[index].page_size.is_huge() {
                true => self.map_huge(view, index)?,
                false => 1,
            };
            index += became;
            behind += became - 1;
        }
        let marked: Vec<_> = lost
            .unwrap_or_default()
            .iter()
            .filter(|run| small.iter().any(|part| overlap(**run, *part)))
            .map(|run| clip(*run, &small))
            .collect();
        if !marked.is_empty() {
            // A collapse into a huge page would drop the marks, and a child of a fork does not
            // inherit them: either would read zeroes where bytes were lost. Until the lost frames
            // are set apart, this protects them with all that is around them.
            for advice in [libc::MADV_NOHUGEPAGE, libc::MADV_DONTFORK] {
                // SAFETY: neither changes a byte.
                unsafe { advise(whole.start(), whole.len(), advice) }?;
            }
        }
        let filled: Vec<_> = match lost {
            Some(_) => small.iter().flat_map(|part| gaps(*part, &marked)).collect(),
            None => vec![],
        };
        if marked.is_empty() && filled.is_empty() {
            return Ok(behind);
        }
        let uffd = uffd.ok_or(io::ErrorKind::Unsupported)?;
        uffd.register(whole, true)?;
        for run in marked {
            uffd.poison(view.range(run))?;
        }
        for run in filled {
            uffd.map_filled(view.range(run))?;
        }
        uffd.unregister(whole)?;
        Ok(behind)
    }

    /// Maps a part with huge pages, or finds out what of it has none. Gives the number of parts that
    /// it has become.
    fn map_huge(&mut self, view: &View, index: usize) -> io::Result<usize> {
        let part = self.parts[index];
        let range = view.range(span(&part));
        // SAFETY: memory that nobody sees yet; populating keeps what is in its file.
        let advise =
            |range: HvaRange, advice| unsafe { advise(range.start(), range.len(), advice) };
        if part.kind != Kind::Shmem {
            return advise(range, libc::MADV_POPULATE_WRITE).map(|()| 1);
        }
        advise(range, libc::MADV_HUGEPAGE)?;
        advise(range, libc::MADV_POPULATE_WRITE)?;
        let (mut became, mut refused): (Vec<Part>, _) = (vec![], None);
        let mut small = 0;
        for page in range.pages(part.page_size) {
            // Says yes at once where the page is huge already, and makes it so where it can.
            let page_size = match collapse(page) {
                Ok(()) => part.page_size,
                Err(error) => {
                    small += page.len();
                    refused = Some(error);
                    PageSize::SIZE_4K
                }
            };
            let into = page.start().get() - range.start().get();
            match became.last_mut() {
                Some(last) if last.page_size == page_size => last.len += page.len(),
                _ => became.push(Part {
                    at: part.at + into,
                    len: page.len(),
                    page_size,
                    offset: part.offset + into,
                    ..part
                }),
            }
        }
        if let Some(error) = refused {
            self.reasons.push(Reason::SmallerPages {
                wanted: part.page_size,
                got: PageSize::SIZE_4K,
                bytes: small,
                why: format!("no transparent huge page: {error}"),
            });
        }
        let parts = became.len();
        self.parts.splice(index..=index, became);
        Ok(parts)
    }
}

/// A mapping of `len` bytes in which every touch faults. Marks on huge pages, because they are few;
/// private, because Linux deadlocks with itself when a shared mapping of 2 MiB hugetlb pages that
/// covers an aligned GiB is moved: mremap holds the file's mapping lock for writing and takes it
/// again for reading to look for page tables to share (move_hugetlb_page_tables, huge_pmd_share).
/// A child of a fork would not inherit the marks, and does not inherit the mapping.
pub(crate) fn shroud(files: &Arc<Files>, uffd: &Uffd, len: u64) -> io::Result<Mapping> {
    // No extent: nothing is ever got there that could be given back, and giving back would take the
    // marks out of the mapping (hugetlbfs_punch_hole).
    let place = files.set_aside(Kind::Hugetlb(PageSize::SIZE_2M), len)?;
    let mapping = Mapping::reserve(len, PageSize::from_bytes(len).unwrap_or(PageSize::SIZE_2M))?;
    let view = FileView {
        at: 0,
        len,
        offset: place.offset,
    };
    mapping.map_private(files.get(place.file), view)?;
    let whole = HvaRange::new(mapping.hva(), len).expect("it was mapped just now");
    // SAFETY: the advice changes no byte.
    unsafe { advise(whole.start(), len, libc::MADV_DONTFORK) }?;
    uffd.register(whole, false)?;
    uffd.poison(whole)?;
    uffd.unregister(whole)?;
    Ok(mapping)
}

fn span(part: &Part) -> (u64, u64) {
    (part.at, part.len)
}

/// What of `run` lies in the part that it overlaps.
fn clip(run: (u64, u64), parts: &[(u64, u64)]) -> (u64, u64) {
    let part = parts
        .iter()
        .find(|part| overlap(run, **part))
        .copied()
        .unwrap_or(run);
    let start = run.0.max(part.0);
    let end = (run.0 + run.1).min(part.0 + part.1);
    (start, end - start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::LookingGlass;

    #[test]
    fn every_touch_of_a_shroud_faults_even_where_the_pool_has_pages() {
        let pool = crate::probe::Pool::of(PageSize::SIZE_2M);
        let Some(pool) = pool.filter(|pool| pool.spare() > 0) else {
            println!("skipped: there is no free huge page that a touch could get");
            return;
        };
        println!("{} pages are free", pool.spare());
        let files = Files::new().unwrap();
        let uffd = Uffd::open().unwrap();
        let shroud = shroud(&files, &uffd, 64 << 20).unwrap();
        let glass = LookingGlass::new().unwrap();
        let range = HvaRange::new(shroud.hva(), shroud.len()).unwrap();
        for page in range.pages(PageSize::SIZE_2M) {
            assert!(!glass.readable(page.start()), "{page}");
        }
    }
}
