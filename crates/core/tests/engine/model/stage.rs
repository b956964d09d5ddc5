//! New memory in the model: which pages it gets, what salvage brings into it, and its marks. Pages
//! from the pool go back to it.

use std::rc::Rc;

use pagemend_core::address::{FRAME_SIZE, Gpa, GpaRange, PageSize};
use pagemend_core::host::{Salvaged, Swapped, Target};
use pagemend_core::map::{Backing, Segment, Source};

use super::physical::{Kind, Place, index};
use super::watch::Staged;
use super::{ModelError, ModelHost};

/// New memory for one page.
pub(crate) struct ModelStage {
    pub(crate) page: GpaRange,
    pub(crate) object: u32,
    /// The frames that the engine says the page is made of; none where no file has them all.
    pub(super) sources: Option<Vec<Place>>,
    pub(super) largest: PageSize,
    /// What it becomes, where it is memory of the guest's that is healed.
    pub(super) healed: Option<(Segment, Vec<GpaRange>)>,
    /// Tells the model when it is dropped.
    pub(super) _alive: Rc<()>,
}

impl ModelStage {
    fn places(&self) -> Vec<Place> {
        run(self.object, 0, self.page.len() / FRAME_SIZE)
    }
}

/// The frames that the engine says a page is made of.
pub(super) fn sources(target: &Target) -> Option<Vec<Place>> {
    let frames = target.segments.iter().map(|segment| {
        let Source { file, offset } = segment.source?;
        let frames = segment.gpa.len() / FRAME_SIZE;
        Some(run(file.0, offset / FRAME_SIZE, frames))
    });
    let frames: Option<Vec<_>> = frames.collect();
    frames.map(|frames| frames.concat())
}

/// So many frames of an object.
fn run(object: u32, first: u64, frames: u64) -> Vec<Place> {
    let frame = |frame| u32::try_from(frame).expect("pages of the model are small");
    (first..first + frames)
        .map(|number| Place {
            object,
            frame: frame(number),
        })
        .collect()
}

impl ModelHost {
    fn give_back(&mut self, kind: Kind) {
        if kind.backing == Backing::Hugetlb {
            *self.pool.entry(kind.page_size).or_default() += 1;
        }
    }

    /// The largest pages to be had for a stretch: from the pool of the size, else transparent
    /// ones, else small ones.
    pub(super) fn take_pages(&mut self, size: PageSize) -> Kind {
        match self.pool.get_mut(&size) {
            Some(free) if *free > 0 => {
                *free -= 1;
                Kind {
                    backing: Backing::Hugetlb,
                    page_size: size,
                }
            }
            _ => Kind {
                backing: Backing::Shmem,
                page_size: if self.thp { size } else { PageSize::SIZE_4K },
            },
        }
    }

    /// Takes back the huge pages of stages that were dropped.
    pub(crate) fn reap(&mut self) {
        let (alive, dropped) = std::mem::take(&mut self.watch.staged)
            .into_iter()
            .partition(|one| one.alive.strong_count() > 0);
        self.watch.staged = alive;
        let dropped: Vec<Staged> = dropped;
        for one in dropped {
            for kind in self.physical.object(one.object).kinds().to_vec() {
                self.give_back(kind);
            }
        }
    }

    pub(super) fn read_into(
        &mut self,
        stage: &ModelStage,
        offset: u64,
        len: u64,
    ) -> Result<Salvaged, ModelError> {
        let number = index(offset / FRAME_SIZE);
        let count = index(len.div_ceil(FRAME_SIZE));
        let from = stage.sources.as_ref().ok_or(ModelError::NoFileView)?;
        let (from, to) = (&from[number..][..count], &stage.places()[number..][..count]);
        if !self.physical.has_file_view(from[0]) {
            return Err(ModelError::NoFileView);
        }
        if self.physical.frame(to[0]).faults() {
            return Err(ModelError::StageFailed);
        }
        if self.physical.is_unreadable(from[0]) {
            return Ok(Salvaged::Unreadable);
        }
        let file = from[0].object;
        let stops = |(from, to): (&Place, &Place)| {
            from.object != file
                || self.physical.is_unreadable(*from)
                || self.physical.frame(*to).faults()
        };
        let readable = from.iter().zip(to).position(stops).unwrap_or(count);
        let start = offset - offset % FRAME_SIZE;
        let mut end = start + readable as u64 * FRAME_SIZE;
        end = offset + self.others.shorten(end - offset);
        for (n, (from, to)) in (1..).zip(from.iter().zip(to)) {
            // A frame of which only the first part came is not what was written.
            let word = self.physical.frame(*from).word;
            let copied = match start + n * FRAME_SIZE {
                behind if behind <= end => word,
                behind if behind < end + FRAME_SIZE => !word,
                _ => break,
            };
            self.physical.frame_mut(*to).word = copied;
        }
        Ok(Salvaged::Bytes(end - offset))
    }

    /// A stretch becomes a huge page: what was marked in it can be touched.
    pub(super) fn unmark(
        &mut self,
        segment: Segment,
        lost: &[GpaRange],
    ) -> Result<Swapped, ModelError> {
        let result = self.enter().map(|()| {
            for gpa in lost.iter().flat_map(GpaRange::frames) {
                let place = self.guest.cell(gpa).place;
                self.physical.frame_mut(place).marked = false;
            }
            Swapped {
                segments: vec![segment],
                reasons: vec![],
            }
        });
        self.leave(result)
    }

    /// Marks one frame of a stage, which then has to consist of small pages there.
    pub(crate) fn mark(&mut self, stage: &ModelStage, gpa: Gpa) -> Result<(), ModelError> {
        let offset = stage.page.offset_of(gpa);
        let frame = index(offset.expect("lost frames lie in the page") / FRAME_SIZE);
        let object = self.physical.object(stage.object);
        let kind = object.split(frame).ok_or(ModelError::StageFailed)?;
        self.give_back(kind);
        self.physical.frame_mut(stage.places()[frame]).marked = true;
        Ok(())
    }
}
