//! The view that becomes the guest's: made at addresses of ours, finished there, then moved.
//!
//! One move replaces the page for all threads at once, and a move takes one mapping. So the first
//! view covers the whole page from one file; where that file has nothing for a stretch, the
//! stretch is marked, which keeps everyone waiting exactly as the poisoned page did, until the
//! view that has it is moved over.

use std::io;

use pagemend_core::address::{HvaRange, PageSize};
use pagemend_core::plan::Reason;

use super::{Part, Stage, gaps, overlap};
use crate::files::Kind;
use crate::mapping::{FileView, Mapping, advise};
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
        uffd: Option<&Uffd>,
        lost: Option<&[(u64, u64)]>,
    ) -> io::Result<()> {
        let page = (0, self.target.page.len());
        let base = self.view_of(page, 0, 0)?;
        let in_base: Vec<_> = self
            .parts
            .iter()
            .filter(|part| part.extent == 0)
            .map(span)
            .collect();
        let absent = gaps(page, &in_base);
        self.finish(
            &base,
            &self.part_indices(|part| part.extent == 0),
            &absent,
            uffd,
            lost,
        )?;
        self.views.push(base);

        let mut index = 0;
        while index < self.parts.len() {
            let first = self.parts[index];
            let run = self.parts[index..]
                .iter()
                .take_while(|part| {
                    part.extent == first.extent && part.offset - first.offset == part.at - first.at
                })
                .count();
            if first.extent != 0 {
                let last = self.parts[index + run - 1];
                let over = (first.at, last.at + last.len - first.at);
                let view = self.view_of(over, first.extent, first.offset)?;
                let parts: Vec<_> = (index..index + run).collect();
                self.finish(&view, &parts, &[], uffd, lost)?;
                self.views.push(view);
            }
            index += run;
        }
        Ok(())
    }

    fn part_indices(&self, wanted: impl Fn(&Part) -> bool) -> Vec<usize> {
        (0..self.parts.len())
            .filter(|index| wanted(&self.parts[*index]))
            .collect()
    }

    fn view_of(&self, (at, len): (u64, u64), extent: usize, offset: u64) -> io::Result<View> {
        let extent = &self.extents[extent];
        // A huge page can only be mapped where address and file offset agree in their low bits.
        let alignment = self
            .fill_alignment()
            .min(PageSize::from_bytes(len).unwrap_or(PageSize::SIZE_2M));
        let mapping = Mapping::reserve(len, alignment)?;
        let offset = extent.source().offset + offset;
        mapping.map(extent.fd(), FileView { at: 0, len, offset })?;
        Ok(View { at, mapping })
    }

    fn fill_alignment(&self) -> PageSize {
        PageSize::from_bytes(self.target.page.len()).unwrap_or(PageSize::SIZE_2M)
    }

    /// Settings, pages and marks of a view.
    fn finish(
        &mut self,
        view: &View,
        parts: &[usize],
        absent: &[(u64, u64)],
        uffd: Option<&Uffd>,
        lost: Option<&[(u64, u64)]>,
    ) -> io::Result<()> {
        let whole = view.range((view.at, view.mapping.len()));
        self.settings.apply(whole)?;
        let small: Vec<_> = parts
            .iter()
            .map(|index| &self.parts[*index])
            .filter(|part| !part.page_size.is_huge())
            .map(span)
            .collect();
        for index in parts {
            if self.parts[*index].page_size.is_huge() {
                self.map_huge(view, *index)?;
            }
        }
        let marked: Vec<_> = lost
            .unwrap_or_default()
            .iter()
            .filter(|run| small.iter().any(|part| overlap(**run, *part)))
            .map(|run| clip(*run, &small))
            .collect();
        if !marked.is_empty() {
            // A collapse into a huge page would drop the marks, and a child of a fork does not
            // inherit them: either would read zeroes where bytes were lost.
            for advice in [libc::MADV_NOHUGEPAGE, libc::MADV_DONTFORK] {
                // SAFETY: neither changes a byte.
                unsafe { advise(whole.start(), whole.len(), advice) }?;
            }
        }
        let filled: Vec<_> = match lost {
            Some(_) => small.iter().flat_map(|part| gaps(*part, &marked)).collect(),
            None => vec![],
        };
        if marked.is_empty() && absent.is_empty() && filled.is_empty() {
            return Ok(());
        }
        let uffd = uffd.ok_or(io::ErrorKind::Unsupported)?;
        uffd.register(whole, true)?;
        for run in absent.iter().chain(&marked) {
            uffd.poison(view.range(*run))?;
        }
        for run in filled {
            uffd.map_filled(view.range(run))?;
        }
        uffd.unregister(whole)
    }

    /// Maps a part with huge pages, or finds out that it has none.
    fn map_huge(&mut self, view: &View, index: usize) -> io::Result<()> {
        let part = self.parts[index];
        let range = view.range(span(&part));
        // SAFETY: memory that nobody sees yet; populating keeps what is in its file.
        let advise = |advice| unsafe { advise(range.start(), range.len(), advice) };
        if part.kind != Kind::Shmem {
            return advise(libc::MADV_POPULATE_WRITE);
        }
        advise(libc::MADV_HUGEPAGE)?;
        advise(libc::MADV_POPULATE_WRITE)?;
        // Says yes at once where the page is huge already, and makes it so where it can.
        if let Err(error) = advise(libc::MADV_COLLAPSE) {
            self.parts[index].page_size = PageSize::SIZE_4K;
            self.reasons.push(Reason::SmallerPages {
                wanted: part.page_size,
                got: PageSize::SIZE_4K,
                bytes: part.len,
                why: format!("no transparent huge page: {error}"),
            });
        }
        Ok(())
    }
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
