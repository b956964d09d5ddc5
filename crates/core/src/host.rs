//! What the mender needs of the machine below it.
//!
//! The split is mechanism here, decisions in the core. Each call is one step that can fail, so
//! that a model of a host can make each one fail in turn.

use crate::address::{Gpa, GpaRange, Hva, PageSize};
use crate::event::Event;
use crate::fault::{Condition, Fault};
use crate::map::{Backing, Segment, Source};
use crate::plan::{Capabilities, Reason};
use crate::time::Timestamp;

/// What a healed frame holds, over and over, until somebody writes there: words that are no
/// address of any processor, and that are found by eye in a dump.
pub const FILL: [u8; 16] = *b"pagemend: lost! ";

/// The page that new memory is staged for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where the guest sees it.
    pub page: GpaRange,
    /// Where this process sees it.
    pub hva: Hva,
    /// What it consists of now, in order, covering exactly the page.
    pub segments: Vec<Segment>,
    /// What in it is marked lost, ordered and apart: none in a page that is poisoned whole.
    pub marked: Vec<GpaRange>,
    /// The largest page size that the new memory may have.
    pub largest: PageSize,
}

impl Target {
    /// Where the byte at `offset` of the page comes from, and how many bytes go on from there in
    /// the same segment, and in the same page of a pool: a read that meets a failed page of those at
    /// its very beginning says that it could not read anything, whatever it has read before
    /// (`hugetlbfs_read_iter`). `None` where no file has it.
    pub fn source_at(&self, offset: u64) -> Option<(Source, u64)> {
        let gpa = self.page.at(offset)?;
        let segment = self
            .segments
            .iter()
            .find(|segment| segment.gpa.contains(gpa))?;
        let source = segment.source_of(gpa)?;
        let rest = segment.gpa.end().get() - gpa.get();
        let rest = match segment.backing {
            Backing::Hugetlb => {
                let page = segment.page_size.bytes();
                rest.min(page - source.offset % page)
            }
            _ => rest,
        };
        Some((source, rest))
    }
}

/// What one salvage read gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Salvaged {
    /// So many bytes are in the staged memory. Fewer than asked for where the read met something
    /// unreadable; never none.
    Bytes(u64),
    /// The frame at the start of the read is unreadable.
    Unreadable,
}

/// What a swap left in the page's place.
#[derive(Clone, Debug)]
pub struct Swapped {
    /// In order, covering exactly the page.
    pub segments: Vec<Segment>,
    /// Where the host had to take smaller pages than fit.
    pub reasons: Vec<Reason>,
}

/// The machine below the mender: Linux, or a model of it.
///
/// A page goes through `claim`, `stage`, `salvage`, `poison`, `swap` and `release` in this order.
/// A page that is mended on demand is put under a `cover` after `claim`. Then parts of it go from
/// `stage` to `swap`, in any order, one at a time; the page is released when there is none left.
///
/// Until `swap` succeeds nothing that the guest can see may change: the old mapping stays, and
/// every touch of it goes on faulting. At a reset, when the guest stands still, what is swapped may
/// be memory that can be touched; there nothing is marked, and after `swap` comes `retire`.
pub trait Host {
    /// New memory for one page that the guest does not see yet. Dropping it gives it back.
    type Stage;
    /// Why a step failed.
    type Error: std::error::Error;

    /// The time.
    fn now(&self) -> Timestamp;

    /// What this host can do.
    fn capabilities(&self) -> Capabilities;

    /// Looks at a reported address, without faulting.
    fn examine(&mut self, fault: &Fault, gpa: Gpa) -> Condition;

    /// Whether the file behind a frame says that it has failed: what the kernel could not take out of
    /// the mappings can be touched all the same. `false` where no file has it, or none says so.
    fn has_failed(&mut self, segment: &Segment, gpa: Gpa) -> bool;

    /// Waits until no writer that page tables do not stop can reach the page (I/O leases, the
    /// VMM's pause hook), and keeps new ones waiting. On failure nobody is kept waiting.
    fn claim(&mut self, page: GpaRange) -> Result<(), Self::Error>;

    /// Lets them go on.
    fn release(&mut self, page: GpaRange);

    /// Puts in a page's place, for all threads at once, what faults at every touch as the poisoned
    /// page does, and in which parts of the page can be replaced one by one. On failure the old
    /// mapping is there as it was.
    fn cover(&mut self, target: &Target) -> Result<(), Self::Error>;

    /// Gets new, zeroed memory for a page, or for part of one that is covered, with the settings of the old.
    fn stage(&mut self, target: &Target) -> Result<Self::Stage, Self::Error>;

    /// Reads up to `len` bytes at `offset` of the page as it is now into the same place of the
    /// stage, in one read. Of one page the offsets only go up; what is left out stays zero.
    fn salvage(
        &mut self,
        stage: &mut Self::Stage,
        offset: u64,
        len: u64,
    ) -> Result<Salvaged, Self::Error>;

    /// Marks `lost`, ordered and apart, so that every touch of it faults once it is the guest's.
    fn poison(&mut self, stage: &mut Self::Stage, lost: &[GpaRange]) -> Result<(), Self::Error>;

    /// Puts the stage in the page's place, for all threads at once. On failure the old mapping is
    /// there as it was.
    fn swap(&mut self, stage: Self::Stage) -> Result<Swapped, Self::Error>;

    /// Makes one huge page of a stretch of 4 KiB pages that a swap has put there, or that failed
    /// since, with [`FILL`] in the frames that are marked. The guest goes on using it meanwhile:
    /// its bytes stay the same memory, and what is marked goes on faulting, until `swap` puts
    /// the stage in its place, which needs no claim. On failure nothing that the guest can see has
    /// changed.
    fn heal(&mut self, target: &Target) -> Result<Self::Stage, Self::Error>;

    /// Gives lost memory of 4 KiB pages fresh zeroed memory of the same kind, where it is. On failure
    /// every touch of it goes on faulting.
    fn renew(&mut self, frame: &Target) -> Result<(), Self::Error>;

    /// Memory that a swap had put in a page's place is not the guest's any more: gives it back. Of
    /// what the VMM has brought, nothing changes.
    fn retire(&mut self, segments: &[Segment]);

    /// Makes every touch of a frame fault that the kernel has left mapped although its memory
    /// failed. What the frame holds is lost.
    fn isolate(&mut self, frame: &Target) -> Result<(), Self::Error>;

    /// Gives an event to everyone who listens, and returns when they have taken it.
    fn publish(&mut self, event: &Event);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::FileId;

    const MIB: u64 = 1 << 20;

    fn target(backing: Backing) -> Target {
        let page = GpaRange::new(Gpa::new(0), 8 * MIB).unwrap();
        let file = FileId(1);
        let offset = 6 * MIB;
        let segment = Segment {
            gpa: page,
            page_size: PageSize::SIZE_2M,
            backing,
            source: Some(Source { file, offset }),
        };
        Target {
            page,
            hva: Hva::new(1 << 30),
            segments: vec![segment],
            marked: vec![],
            largest: PageSize::SIZE_2M,
        }
    }

    #[test]
    fn what_is_read_at_once_of_a_pool_ends_with_its_page() {
        let rest = |backing, offset| {
            let (source, rest) = target(backing).source_at(offset).unwrap();
            assert_eq!(source.offset, 6 * MIB + offset);
            rest
        };
        assert_eq!(rest(Backing::Hugetlb, 0), 2 * MIB);
        assert_eq!(rest(Backing::Hugetlb, 3 * MIB), MIB);
        assert_eq!(rest(Backing::Shmem, 3 * MIB), 5 * MIB);
    }
}
