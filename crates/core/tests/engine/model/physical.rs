//! The model's physical memory: what an error destroys, what the kernel takes away with it, and
//! what a file read still gives.
//!
//! A frame is one word, so that a 1 GiB page is small enough to be checked frame by frame.

use std::ops::Range;

use pagemend_core::address::{FRAME_SIZE, GpaRange, PageSize};
use pagemend_core::map::{Backing, FileId, Segment, Source};
use pagemend_core::plan::Reason;

/// A frame of some object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) object: u32,
    pub(crate) frame: u32,
}

/// 4 KiB of physical memory.
#[derive(Clone, Copy, Default)]
pub(crate) struct Frame {
    /// What is in it; 0 in fresh memory, which nobody ever writes.
    pub(crate) word: u64,
    /// An uncorrected error destroyed it.
    pub(crate) error: bool,
    /// The kernel unmapped it.
    pub(crate) taken: bool,
    /// The kernel could not unmap it, and it can be touched.
    pub(crate) left: bool,
    /// A poison marker stands in its place (`UFFDIO_POISON`).
    pub(crate) marked: bool,
}

impl Frame {
    pub(crate) fn faults(&self) -> bool {
        (self.is_struck() && !self.left) || self.marked
    }

    /// Whether an error is why it faults.
    pub(crate) fn is_struck(&self) -> bool {
        self.error || self.taken
    }
}

/// What a stretch of an object is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kind {
    pub(crate) backing: Backing,
    pub(crate) page_size: PageSize,
}

/// A file, or the memory of an anonymous mapping.
pub(crate) struct Object {
    frames: Vec<Frame>,
    /// What each stretch is made of; all are equally long.
    kinds: Vec<Kind>,
    /// The kernel lost count of the bad frames (`raw_hwp_unreliable`): it lets none be read.
    unreliable: bool,
    /// The kernel leaves its pages mapped at an error (`MFD_MF_KEEP_UE_MAPPED`).
    kept: bool,
}

impl Object {
    /// Fresh memory: one stretch for each of `kinds`, of `frames` in all.
    pub(crate) fn new(frames: u64, kinds: Vec<Kind>) -> Self {
        Self {
            frames: vec![Frame::default(); index(frames)],
            kinds,
            unreliable: false,
            kept: false,
        }
    }

    /// No memory: every touch faults.
    pub(crate) fn cover(frames: u64) -> Self {
        let marked = Frame {
            marked: true,
            ..Frame::default()
        };
        Self {
            frames: vec![marked; index(frames)],
            ..Self::new(0, vec![])
        }
    }

    pub(crate) fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    fn stretch(&self) -> usize {
        self.frames.len() / self.kinds.len()
    }

    fn kind(&self, frame: usize) -> Kind {
        self.kinds[frame / self.stretch()]
    }

    /// The frames that the kernel takes with `frame`.
    fn unit(&self, frame: usize) -> Range<usize> {
        let kind = self.kind(frame);
        let unit = index(kind.backing.unit_of_loss(kind.page_size).frames());
        let first = frame - frame % unit;
        first..first + unit
    }

    /// Turns the stretch that holds `frame` into 4 KiB pages by copying it, and says what it was
    /// made of; none where it cannot be read.
    pub(crate) fn split(&mut self, frame: usize) -> Option<Kind> {
        let stretch = self.stretch();
        let number = frame / stretch;
        let frames = &self.frames[number * stretch..][..stretch];
        let small = Kind {
            backing: Backing::Shmem,
            page_size: PageSize::SIZE_4K,
        };
        let kind = self.kinds[number];
        if kind != small && frames.iter().any(|frame| frame.taken) {
            return None;
        }
        self.kinds[number] = small;
        Some(kind)
    }

    /// Stretches of one kind each, as parts of `page`, which the object backs as file number
    /// `file`.
    pub(crate) fn segments(&self, page: GpaRange, file: u32) -> Vec<Segment> {
        let stretch = self.stretch() as u64 * FRAME_SIZE;
        let kinds = self.kinds.iter().zip((0..).step_by(index(stretch)));
        kinds
            .map(|(kind, offset)| Segment {
                gpa: page
                    .slice(offset, stretch)
                    .expect("stretches tile the page"),
                page_size: kind.page_size,
                backing: kind.backing,
                source: Some(Source {
                    file: FileId(file),
                    offset,
                }),
            })
            .collect()
    }

    /// The bytes of stretches that have pages below `wanted` though no lost frame is in them, as
    /// the reason that a swap gives.
    pub(crate) fn smaller_pages(&self, wanted: PageSize) -> Vec<Reason> {
        let stretches = self.kinds.iter().zip(self.frames.chunks(self.stretch()));
        let smaller = stretches.filter(|(kind, frames)| {
            kind.page_size < wanted && !frames.iter().any(|frame| frame.marked)
        });
        let bytes = smaller.count() as u64 * self.stretch() as u64 * FRAME_SIZE;
        let reason = Reason::SmallerPages {
            wanted,
            got: PageSize::SIZE_4K,
            bytes,
            why: "the pool is empty".into(),
        };
        (bytes > 0).then_some(reason).into_iter().collect()
    }
}

/// All objects.
#[derive(Default)]
pub(crate) struct Physical {
    objects: Vec<Object>,
}

impl Physical {
    pub(crate) fn add(&mut self, object: Object) -> u32 {
        self.objects.push(object);
        u32::try_from(self.objects.len() - 1).expect("objects are few")
    }

    pub(crate) fn object(&mut self, number: u32) -> &mut Object {
        &mut self.objects[number as usize]
    }

    pub(crate) fn frame(&self, place: Place) -> &Frame {
        &self.objects[place.object as usize].frames[place.frame as usize]
    }

    pub(crate) fn frame_mut(&mut self, place: Place) -> &mut Frame {
        &mut self.objects[place.object as usize].frames[place.frame as usize]
    }

    pub(crate) fn frames(&self, object: u32) -> u32 {
        u32::try_from(self.objects[object as usize].frames.len()).expect("a word is 4 KiB")
    }

    /// An uncorrected error, and what the kernel does about it: of hugetlb it takes the whole page
    /// away, of all else 4 KiB.
    pub(crate) fn strike(&mut self, place: Place) {
        let frame = place.frame as usize;
        let object = &mut self.objects[place.object as usize];
        object.frames[frame].error = true;
        if !object.kept {
            for taken in object.unit(frame) {
                object.frames[taken].taken = true;
            }
        }
    }

    pub(crate) fn keep(&mut self, object: u32, kept: bool) {
        self.object(object).kept = kept;
    }

    pub(crate) fn keeps(&self, place: Place) -> bool {
        self.objects[place.object as usize].kept
    }

    pub(crate) fn lose_count(&mut self, object: u32) {
        self.object(object).unreliable = true;
    }

    /// Whether the object's file no longer gives the frame.
    pub(crate) fn is_unreadable(&self, place: Place) -> bool {
        let object = &self.objects[place.object as usize];
        let frame = &object.frames[place.frame as usize];
        frame.error || (frame.taken && object.unreliable)
    }

    pub(crate) fn has_file_view(&self, place: Place) -> bool {
        let object = &self.objects[place.object as usize];
        object.kind(place.frame as usize).backing != Backing::HugetlbPrivate
    }
}

/// A count of frames as an index.
pub(crate) fn index(frames: u64) -> usize {
    usize::try_from(frames).expect("guests of the model are small")
}
