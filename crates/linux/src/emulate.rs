//! Memory failures that only this process knows of, for machines whose kernel has none to give.
//!
//! A failed page differs from a healthy one in two ways: touching it faults, and some of its
//! frames cannot be read through its file. The first is done with a poison marker on the guest's
//! own mapping, so the signal is real. The second is this table, which salvage asks before each
//! read. Everything else that happens is what happens at a real failure.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;

use pagemend_core::address::{FRAME_SIZE, Hva, HvaRange, PageSize};
use pagemend_core::map::{FileId, Source};

use crate::uffd::Uffd;

/// What has failed.
#[derive(Debug, Default)]
pub(crate) struct Emulation {
    /// Frames that read EIO, by file and offset.
    unreadable: BTreeSet<(FileId, u64)>,
    /// Pages that fault when touched: length by address.
    faulting: BTreeMap<Hva, u64>,
    /// Pages that faulted at some time: who met that fault may tell of it only now.
    past: HashSet<HvaRange>,
}

impl Emulation {
    /// Makes `page` fault, with one frame of it unreadable in its file.
    pub(crate) fn fail(
        &mut self,
        uffd: &Uffd,
        page: HvaRange,
        frame: Option<Source>,
        minor: bool,
    ) -> io::Result<()> {
        if !self.faults_at(page.start()) {
            uffd.poison_in_use(page, minor)?;
            self.faulting.insert(page.start(), page.len());
            self.past.insert(page);
        }
        self.unreadable(frame);
        Ok(())
    }

    /// Makes a frame unreadable in its file.
    pub(crate) fn unreadable(&mut self, frame: Option<Source>) {
        self.unreadable
            .extend(frame.map(|source| (source.file, source.offset)));
    }

    /// Whether the page at `hva` was made to fail.
    pub(crate) fn faults_at(&self, hva: Hva) -> bool {
        let page = self.faulting.range(..=hva).next_back();
        page.is_some_and(|(start, len)| hva.get() - start.get() < *len)
    }

    /// Whether a page at `hva` was ever made to fail.
    pub(crate) fn ever_faulted_at(&self, hva: Hva) -> bool {
        [PageSize::SIZE_4K, PageSize::SIZE_2M, PageSize::SIZE_1G]
            .into_iter()
            .any(|size| self.past.contains(&HvaRange::page(hva, size)))
    }

    /// Other memory has come in the page's place.
    pub(crate) fn replaced(&mut self, page: HvaRange) {
        self.faulting.retain(|start, _| !page.contains(*start));
    }

    /// A frame has fresh memory where it was.
    pub(crate) fn renewed(&mut self, frame: HvaRange, source: Option<Source>) {
        self.replaced(frame);
        if let Some(source) = source {
            self.unreadable.remove(&(source.file, source.offset));
        }
    }

    /// How many of `len` bytes at `source` can be read: up to the first unreadable frame.
    pub(crate) fn readable(&self, source: Source, len: u64) -> u64 {
        let frame = source.offset - source.offset % FRAME_SIZE;
        let behind = source.offset.saturating_add(len);
        self.unreadable
            .range((source.file, frame)..(source.file, behind))
            .next()
            .map_or(len, |(_, bad)| bad.saturating_sub(source.offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_ends_before_the_first_unreadable_frame() {
        let mut emulation = Emulation::default();
        let file = FileId(3);
        emulation
            .unreadable
            .extend([(file, 0x3000), (file, 0x5000)]);
        let readable = |offset, len| emulation.readable(Source { file, offset }, len);
        assert_eq!(readable(0, 0x3000), 0x3000);
        assert_eq!(readable(0, 0x4000), 0x3000);
        assert_eq!(readable(0x3000, 0x1000), 0);
        assert_eq!(readable(0x3800, 0x1000), 0);
        assert_eq!(readable(0x4000, 0x9000), 0x1000);
        assert_eq!(readable(0x6000, 0x9000), 0x9000);
        let other = Source {
            file: FileId(4),
            offset: 0,
        };
        assert_eq!(emulation.readable(other, 0x9000), 0x9000);
    }

    #[test]
    fn a_page_faults_from_its_first_byte_to_its_last() {
        let mut emulation = Emulation::default();
        emulation.faulting.insert(Hva::new(0x20_0000), 0x20_0000);
        let faults = |hva| emulation.faults_at(Hva::new(hva));
        assert!(!faults(0x1f_ffff) && faults(0x20_0000) && faults(0x3f_ffff) && !faults(0x40_0000));
    }
}
