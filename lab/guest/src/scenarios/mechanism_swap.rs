//! What a swap of memory under a running guest relies on: one mremap moves prepared memory, with what is lost marked, over a poisoned huge page.

use crate::faults::{self, Fault};
use crate::memory::{self, GIB_1, KIB_4, MIB_2, Mapping};
use crate::pattern::{fill, survey, tell};
use crate::reader::Reader;
use crate::registry::scenario;
use crate::salvage::salvage;
use crate::staging::{stage, stage_small};
use crate::trial::Trial;
use crate::{gate, inject, pages};
use anyhow::{Context, Result};
use pagemend_lab_protocol::Needs;
use rustix::mm::MapFlags;
use std::os::fd::OwnedFd;

const LOST: usize = 0x2000;

scenario! {
    name: "mechanism/swap-2m",
    proves: "one mremap puts prepared memory in the place of a poisoned 2 MiB page: healthy bytes read as written, the lost 4 KiB faults, and a thread that reads all the while never sees anything else",
    needs: Needs::NOTHING.huge_2m(ROUNDS).seconds(600),
    run: |t| (0..ROUNDS).try_for_each(|round| swap_2m(t, round)),
}

/// How often a 2 MiB page is swapped under a reading thread: often enough for the two to meet in more than one way.
const ROUNDS: u32 = 16;

fn swap_2m(t: &mut Trial, round: u32) -> Result<()> {
    let file = memory::hugetlb_2m(MIB_2)?;
    let guest = Mapping::shared(&file, MIB_2, MIB_2)?;
    fill(guest.base(), MIB_2);
    gate::close();
    let reader = Reader::start(guest.base(), MIB_2 / 2);
    reader.go_on();
    let said = inject::madvise_in_use(guest.base() + LOST)?;
    t.saw(format!("round {round}: what the kernel says of the page"), said);
    gate::wait_for_held(1);

    let staging = memory::shmem(MIB_2)?;
    let filling = Mapping::shared(&staging, MIB_2, MIB_2)?;
    let lost = salvage(&file, 0..MIB_2, filling.base())?;
    t.equal("only the poisoned 4 KiB cannot be read from the file", lost.as_slice(), &[LOST]);

    let view = Mapping::shared(&staging, MIB_2, MIB_2)?;
    view.advise(libc::MADV_NOHUGEPAGE)?;
    let staged = stage_small(view, &lost)?;
    staged.view.move_over(guest.base()).context("cannot move the staged memory")?;
    gate::open();
    reader.go_on();
    t.equal("the reading thread was held once", gate::held(), 1);

    mended(t, guest.base(), MIB_2, LOST)?;
    drop(staged.userfault);
    t.step("the same with the userfaultfd closed");
    mended(t, guest.base(), MIB_2, LOST)?;
    t.equal("reads that gave anything but what was written", reader.finish(), 0);
    Ok(())
}

scenario! {
    name: "mechanism/swap-1g-to-hugetlb-2m",
    proves: "a poisoned 1 GiB page becomes 2 MiB pages from the pool with one mremap, and the 2 MiB around the loss becomes 4 KiB pages with another",
    needs: Needs::NOTHING.huge_1g(1).huge_2m(511).seconds(600),
    run: |t| {
        // Without NORESERVE the mapping would ask for a page for the stretch that is never filled.
        let base = memory::hugetlb_2m(GIB_1)?;
        swap_1g(t, &base, MapFlags::SHARED | MapFlags::NORESERVE, MIB_2)
    },
}

scenario! {
    name: "mechanism/swap-1g-to-shmem",
    proves: "a poisoned 1 GiB page becomes transparent huge pages with one mremap, and the 2 MiB around the loss becomes 4 KiB pages with another",
    needs: Needs::NOTHING.huge_1g(1).huge_2m(512).seconds(600),
    run: |t| {
        // The 2 MiB pool is not used: it keeps memory free for the transparent ones.
        pages::Pool::two_mib().resize(0);
        let base = memory::shmem_huge(GIB_1)?;
        swap_1g(t, &base, MapFlags::SHARED, KIB_4)
    },
}

/// Poisons a 1 GiB page and puts a mapping of `base` in its place, and then 4 KiB pages where the loss is.
fn swap_1g(t: &mut Trial, base: &OwnedFd, flags: MapFlags, unit: usize) -> Result<()> {
    /// In the middle of the page, and not at the start of its 2 MiB.
    const LOST: usize = 0x1234_5000;
    let stretch = LOST / MIB_2 * MIB_2;
    t.step("fill a 1 GiB page and poison 4 KiB of it");
    let file = memory::hugetlb_1g(GIB_1)?;
    let guest = Mapping::shared(&file, GIB_1, GIB_1)?;
    fill(guest.base(), GIB_1);
    gate::close();
    let reader = Reader::start(guest.base(), GIB_1 / 2);
    reader.go_on();
    let said = inject::madvise_in_use(guest.base() + LOST)?;
    t.saw("what the kernel says of the page", said);
    gate::wait_for_held(1);

    t.step("salvage around the lost stretch");
    let filling = Mapping::file(base, GIB_1, GIB_1, flags)?;
    let mut lost = salvage(&file, 0..stretch, filling.base())?;
    let after = stretch + MIB_2;
    lost.extend(salvage(&file, after..GIB_1, filling.base() + after)?);
    t.equal("nothing outside the 2 MiB is lost", lost.len(), 0);

    t.step("stage the base");
    let view = Mapping::file(base, GIB_1, GIB_1, flags)?;
    let holes: Vec<usize> = (stretch..after).step_by(unit).collect();
    let staged_base = stage(view, &holes, unit)?;

    t.step("stage the stretch");
    let small = memory::shmem(MIB_2)?;
    let filling_small = Mapping::shared(&small, MIB_2, MIB_2)?;
    let lost = salvage(&file, stretch..after, filling_small.base())?;
    t.equal("only the poisoned 4 KiB is lost", lost.as_slice(), &[LOST]);
    let view = Mapping::shared(&small, MIB_2, MIB_2)?;
    view.advise(libc::MADV_NOHUGEPAGE)?;
    let staged_small = stage_small(view, &[LOST - stretch])?;

    t.step("move both");
    staged_base.view.move_over(guest.base()).context("cannot move the base")?;
    t.equal(
        "between the two moves the stretch faults",
        faults::load(guest.base() + stretch).map_err(|fault| (fault.code, fault.address)),
        Err((libc::BUS_MCEERR_AR, guest.base() + stretch)),
    );
    staged_small
        .view
        .move_over(guest.base() + stretch)
        .context("cannot move the stretch")?;
    gate::open();
    reader.go_on();
    drop((staged_base.userfault, staged_small.userfault));
    mended(t, guest.base(), GIB_1, LOST)?;
    t.equal("reads that gave anything but what was written", reader.finish(), 0);
    Ok(())
}

/// Claims what a mended mapping must be.
fn mended(t: &mut Trial, base: usize, len: usize, lost: usize) -> Result<()> {
    let found = survey(base, 0..len);
    t.saw("the mended memory", found.summary());
    t.claim("all but the lost 4 KiB reads as written", found.lost_only(len, &[lost]));
    let inside = base + lost + 0x128;
    t.equal(
        "a touch of the lost frame is an AR at its exact address",
        faults::load(inside),
        Err(Fault::action_required(inside, 12)),
    );
    let flags = pages::mapping_flags(base)?;
    t.saw("VmFlags", flags.clone());
    let registered = flags.split(' ').any(|flag| ["um", "ui", "uw"].contains(&flag));
    t.claim("nothing is left registered with the userfaultfd", !registered);
    Ok(())
}

scenario! {
    name: "mechanism/tmpfs-with-huge-pages",
    proves: "a tmpfs that nobody else sees gives a file whose 2 MiB is one huge page, of which 4 KiB pieces can be mapped and poisoned",
    needs: Needs::NOTHING,
    run: |t| {
        let file = memory::shmem_huge(MIB_2)?;
        let filling = Mapping::shared(&file, MIB_2, MIB_2)?;
        fill(filling.base(), MIB_2);
        let first = pages::frame(filling.base())?.context("nothing was mapped")?;
        let last = pages::frame(filling.base() + MIB_2 - KIB_4)?.context("nothing was mapped")?;
        t.claim(
            "the 2 MiB is one huge page",
            first % 512 == 0 && last == first + 511 && pages::flags(first)? & pages::KPF_THP != 0,
        );
        let staged = stage_small(Mapping::shared(&file, MIB_2, MIB_2)?, &[LOST])?;
        let found = survey(staged.view.base(), 0..MIB_2);
        t.saw("the staged view", found.summary());
        t.claim("all but the poisoned 4 KiB reads as written", found.lost_only(MIB_2, &[LOST]));
        t.saw(
            "the poisoned 4 KiB in the other view",
            tell(faults::load(filling.base() + LOST), LOST),
        );
        t.equal(
            "the huge page is still one",
            pages::frame(staged.view.base() + MIB_2 - KIB_4)?,
            Some(first + 511),
        );
        Ok(())
    },
}
