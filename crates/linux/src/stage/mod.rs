//! New memory for one page: got, filled and marked where nobody sees it, then put in the page's
//! place in one step.
//!
//! It has two views of the same files. Salvage fills the first, which is plain memory to it. The
//! second is what becomes the guest's: healthy frames mapped, lost frames marked, settings
//! applied, all before it moves to the guest's addresses. So no thread sees it half done, and
//! nothing has to be undone when a step fails. Where there is nothing to mark, in pages of a pool,
//! one view is enough.

mod ladder;
mod marks;
mod plot;
mod view;

use std::io;
use std::sync::Arc;

use pagemend_core::address::{HvaRange, PageSize};
use pagemend_core::host::{Swapped, Target};
use pagemend_core::map::{Backing, Segment, Source};
use pagemend_core::plan::Reason;

use crate::files::{Extent, Files, Kind};
use crate::mapping::Mapping;
use crate::settings::{NumaPolicy, Settings};
use crate::uffd::Uffd;

pub(crate) use plot::Plot;
use view::View;
pub(crate) use view::shroud;

/// A piece of the page with one page size and one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    /// Bytes from the start of the page.
    at: u64,
    len: u64,
    page_size: PageSize,
    kind: Kind,
    /// Which of the stage's extents it is in.
    extent: usize,
    /// Bytes from the start of the extent.
    offset: u64,
}

/// New memory for one page.
#[derive(Debug)]
pub(crate) struct Stage {
    target: Target,
    settings: Settings,
    /// Where its memory comes from, where it is part of a covered page.
    plot: Option<Plot>,
    /// How far the bounce buffer holds what was read for this stage; none where nothing is in it.
    pub(crate) bounced: Option<u64>,
    /// Where it is filled, until that becomes the guest's; none where nothing is.
    fill: Option<Mapping>,
    extents: Vec<Extent>,
    /// In order, covering the page.
    parts: Vec<Part>,
    reasons: Vec<Reason>,
    /// What is lost, as offset and length.
    lost: Vec<(u64, u64)>,
    /// What becomes the guest's, in the order in which it is moved.
    views: Vec<View>,
}

impl Stage {
    /// Gets memory for `target`, in the largest pages that are to be had. With a `plot`, it is part of
    /// a covered page.
    pub(crate) fn new(
        files: &Arc<Files>,
        target: Target,
        settings: Settings,
        policy: Option<NumaPolicy>,
        plot: Option<Plot>,
    ) -> io::Result<Self> {
        // What is no page of its own is a run of 2 MiB stretches.
        let size = PageSize::from_bytes(target.page.len()).unwrap_or(PageSize::SIZE_2M);
        let fill = Mapping::reserve(target.page.len(), size)?;
        let mut stage = Self {
            plot,
            fill: Some(fill),
            ..Self::empty(target, settings)
        };
        stage.climb_down(files, policy)?;
        Ok(stage)
    }

    /// The memory that the page consists of now, which swaps have put there.
    pub(crate) fn of_what_is_there(
        files: &Arc<Files>,
        target: Target,
        settings: Settings,
    ) -> io::Result<Self> {
        let mut stage = Self::empty(target, settings);
        for segment in &stage.target.segments {
            let source = segment.source.ok_or(io::ErrorKind::NotFound)?;
            let len = segment.gpa.len();
            stage.parts.push(Part {
                at: segment.gpa.start().get() - stage.target.page.start().get(),
                len,
                // The kernel has split what single frames of are marked.
                page_size: match stage.target.marked.is_empty() {
                    true => segment.page_size,
                    false => PageSize::SIZE_4K,
                },
                kind: match segment.backing {
                    Backing::Hugetlb => Kind::Hugetlb(segment.page_size),
                    _ => Kind::Shmem,
                },
                extent: stage.extents.len(),
                offset: 0,
            });
            stage.extents.push(Extent::in_use(files, source, len));
        }
        Ok(stage)
    }

    /// Makes huge pages of what is there, through a view that becomes the guest's.
    pub(crate) fn make_huge(&mut self, files: &Arc<Files>) -> io::Result<()> {
        for part in &mut self.parts {
            part.page_size = self.target.largest;
        }
        self.prepare(files, None, None)?;
        match self.reasons.first() {
            Some(why) => Err(io::Error::other(why.to_string())),
            None => Ok(()),
        }
    }

    fn empty(target: Target, settings: Settings) -> Self {
        Self {
            target,
            settings,
            plot: None,
            bounced: None,
            fill: None,
            extents: vec![],
            parts: vec![],
            reasons: vec![],
            lost: vec![],
            views: vec![],
        }
    }

    fn fill(&self) -> &Mapping {
        let fill = self.fill.as_ref();
        fill.expect("new memory is filled before its views are made")
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Where salvage puts the byte at `offset` of the page.
    pub(crate) fn fill_at(&self, offset: u64) -> *mut u8 {
        self.fill().at(offset)
    }

    /// Whether its memory can be written through its file: that of hugetlb pools cannot.
    pub(crate) fn takes_writes(&self) -> bool {
        self.parts.iter().all(|part| part.kind == Kind::Shmem)
    }

    /// Writes the page through its file.
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < bytes.len() {
            let (file, source, room) = self.source_at(done as u64);
            let end = bytes.len().min(done + room as usize);
            let wrote = rustix::io::pwrite(&file, &bytes[done..end], source.offset)?;
            done += wrote;
        }
        Ok(())
    }

    /// The file, the place in it, and how far the part goes on from there.
    pub(crate) fn source_at(&self, at: u64) -> (Arc<std::os::fd::OwnedFd>, Source, u64) {
        let part = self
            .parts
            .iter()
            .find(|part| at < part.at + part.len)
            .expect("parts cover the page");
        let extent = &self.extents[part.extent];
        let into = at - part.at;
        let source = Source {
            file: extent.source().file,
            offset: extent.source().offset + part.offset + into,
        };
        (extent.fd(), source, part.len - into)
    }

    /// Has the memory outlive the stage.
    fn keep(&mut self) {
        self.extents.drain(..).for_each(Extent::keep);
    }

    /// Puts the new memory in the page's place. A step that fails may leave a hole at the page's
    /// addresses, or part of the new memory; `restore` is called then, before that memory is given
    /// back, which it is not where `restore` fails: mapped memory that is given back reads as zeroes.
    pub(crate) fn swap(
        mut self,
        files: &Arc<Files>,
        uffd: Option<&Uffd>,
        restore: impl FnOnce() -> bool,
    ) -> io::Result<Swapped> {
        if self.views.is_empty() {
            self.prepare(files, uffd, None)?;
        }
        let target = self.target.clone();
        for view in std::mem::take(&mut self.views) {
            let hva = target
                .hva
                .checked_add(view.at)
                .expect("it lies in the page");
            // SAFETY: the page is guest memory, which nobody has references into: that is what
            // the VMM vouched for when it registered the region.
            if let Err(error) = unsafe { view.mapping.move_over(hva) } {
                if !restore() {
                    self.keep();
                }
                return Err(error);
            }
        }
        let segments = self.segments();
        self.keep();
        let range = HvaRange::new(target.hva, target.page.len()).expect("it is guest memory");
        let settled = [
            ("mlock", self.settings.lock(range)),
            ("protecting the marks", self.protect_marks(range)),
        ];
        for (step, result) in settled {
            if let Err(error) = result {
                self.reasons.push(Reason::StepFailed {
                    step: step.to_owned(),
                    error: error.to_string(),
                });
            }
        }
        Ok(Swapped {
            segments,
            reasons: self.reasons,
        })
    }

    fn segments(&self) -> Vec<Segment> {
        let segment = |part: &Part| {
            let source = self.extents[part.extent].source();
            Segment {
                gpa: self
                    .target
                    .page
                    .slice(part.at, part.len)
                    .expect("parts lie in the page"),
                page_size: part.page_size,
                backing: match part.kind {
                    Kind::Hugetlb(_) => Backing::Hugetlb,
                    Kind::Shmem => Backing::Shmem,
                },
                source: Some(Source {
                    offset: source.offset + part.offset,
                    ..source
                }),
            }
        };
        self.parts.iter().map(segment).collect()
    }
}
