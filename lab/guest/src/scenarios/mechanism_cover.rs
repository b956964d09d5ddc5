//! What a page that comes back in parts relies on: a mapping of marks stands in its place and holds, whatever is moved over other parts of it.

use crate::faults;
use crate::inject;
use crate::memory::{self, GIB_1, MIB_2, Mapping};
use crate::pattern::{fill, word};
use crate::registry::scenario;
use crate::salvage::salvage;
use crate::userfault::Userfault;
use anyhow::{Context, Result};
use pagemend_lab_protocol::Needs;
use rustix::mm::MapFlags;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const STRETCHES: usize = GIB_1 / MIB_2;
/// An odd step leads through all stretches, and seldom to a neighbour.
const STEP: usize = 2 * 97 + 1;

/// A private mapping of 2 MiB pages, all of them marked.
fn cover(file: &OwnedFd, len: usize) -> Result<Mapping> {
    let cover = Mapping::file(file, len, len, MapFlags::PRIVATE | MapFlags::NORESERVE)?;
    let userfault = Userfault::user_mode().context("cannot open a userfaultfd")?;
    let range = cover.base()..cover.base() + len;
    userfault.register_missing(range.clone()).context("cannot register the cover")?;
    userfault.poison(range).context("cannot mark the cover")?;
    Ok(cover)
}

scenario! {
    name: "mechanism/cover-1g",
    proves: "a mapping of marks in the place of a poisoned 1 GiB page faults everywhere but where finished 2 MiB pages have been moved over it, in any order: a thread that reads everywhere sees what was written or BUS_MCEERR_AR",
    set: All,
    needs: Needs::NOTHING.huge_1g(1).huge_2m(513).seconds(300),
    run: |t| {
        const LOST: usize = 0x1234_5000;
        let file = memory::hugetlb_1g(GIB_1)?;
        let guest = Mapping::shared(&file, GIB_1, GIB_1)?;
        fill(guest.base(), GIB_1);
        inject::madvise_in_use(guest.base() + LOST)?;

        // Of pages that the cover could get, there is one: it must not.
        let marks = memory::hugetlb_2m(GIB_1)?;
        cover(&marks, GIB_1)?.move_over(guest.base()).context("cannot move the cover")?;
        let base = guest.base();
        let (done, wrong) = (AtomicBool::new(false), AtomicU64::new(0));
        let (moved, held) = thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut read, mut held) = (0u64, 0u64);
                let mut last = false;
                while !last {
                    last = done.load(Ordering::Acquire);
                    for offset in (0..GIB_1).step_by(MIB_2).map(|stretch| stretch + 0x4128) {
                        match faults::load(base + offset) {
                            Ok(found) if found == word(offset) => read += 1,
                            Ok(_) => drop(wrong.fetch_add(1, Ordering::Relaxed)),
                            Err(fault) if fault.code == libc::BUS_MCEERR_AR => held += 1,
                            Err(_) => drop(wrong.fetch_add(1, Ordering::Relaxed)),
                        }
                    }
                }
                (read, held)
            });
            let moved = uncover(&file, base, LOST);
            done.store(true, Ordering::Release);
            (moved, reader.join())
        });
        let lost = moved?;
        let (read, held) = held.map_err(|_| anyhow::anyhow!("the reading thread died"))?;
        t.saw("reads of what was back", read);
        t.saw("reads that faulted", held);
        t.equal("reads of anything else", wrong.into_inner(), 0);
        t.equal("what could not be read from the file", lost, vec![LOST]);
        let stretch = LOST / MIB_2 * MIB_2;
        let faulting = (0..GIB_1).step_by(MIB_2).filter(|at| faults::load(base + at).is_err());
        t.equal("what was not moved still faults", faulting.collect::<Vec<_>>(), vec![stretch]);
        Ok(())
    },
}

/// Moves finished stretches over the cover, all but the one with the loss, and gives what cannot be read.
fn uncover(file: &OwnedFd, base: usize, lost: usize) -> Result<Vec<usize>> {
    let mut unreadable = Vec::new();
    for stretch in (0..STRETCHES).map(|n| n * STEP % STRETCHES * MIB_2) {
        let new = memory::hugetlb_2m(MIB_2)?;
        let view = Mapping::shared(&new, MIB_2, MIB_2)?;
        unreadable.extend(salvage(file, stretch..stretch + MIB_2, view.base())?);
        if stretch != lost / MIB_2 * MIB_2 {
            view.move_over(base + stretch).context("cannot move a stretch")?;
        }
    }
    Ok(unreadable)
}

scenario! {
    name: "mechanism/cover-punched",
    proves: "marks on hugetlb memory do not outlive a hole that is punched into its file, even where the file holds nothing: the next touch reads zeros",
    needs: Needs::NOTHING.huge_2m(2),
    run: |t| {
        let file = memory::hugetlb_2m(2 * MIB_2)?;
        let cover = cover(&file, 2 * MIB_2)?;
        t.claim("both pages fault", [0, MIB_2].iter().all(|at| faults::load(cover.base() + at).is_err()));
        let flags = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 0, MIB_2 as u64).context("cannot punch")?;
        t.equal("the one whose place was punched", faults::load(cover.base()), Ok(0));
        t.claim("the other one faults", faults::load(cover.base() + MIB_2).is_err());
        Ok(())
    },
}
