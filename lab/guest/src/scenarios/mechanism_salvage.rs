//! What can still be read of a poisoned huge page, under less common circumstances.

use crate::inject;
use crate::memory::{self, KIB_4, MIB_2, Mapping};
use crate::pages::Pool;
use crate::pattern::{fill, survey};
use crate::raw_list;
use crate::registry::scenario;
use crate::salvage::salvage;
use crate::trial::Trial;
use anyhow::{Context, Result};
use pagemend_lab_protocol::Needs;
use std::fs;

scenario! {
    name: "mechanism/salvage-with-optimized-vmemmap",
    proves: "the healthy bytes can be read from the file also where the pool's page structures are shared to save memory (vm.hugetlb_optimize_vmemmap)",
    needs: Needs::NOTHING,
    run: |t| {
        let setting = "/proc/sys/vm/hugetlb_optimize_vmemmap";
        if fs::write(setting, "1").is_err() {
            return t.skip("this kernel has no vm.hugetlb_optimize_vmemmap");
        }
        // It counts for pages that come into the pool from now on.
        let pool = Pool::two_mib();
        let before = pool.total();
        pool.resize(before + 1);
        fs::write(setting, "0")?;
        t.equal("the pool has a page more", pool.free(), 1);
        let bad = [0x2_0000];
        salvaged(t, &bad)
    },
}

scenario! {
    name: "mechanism/salvage-with-many-errors",
    proves: "several errors in one 2 MiB page each cost their 4 KiB and nothing else",
    needs: Needs::NOTHING.huge_2m(1),
    run: |t| {
        let bad = [0x2_0000, 0x4_1000, 0x7_f000, 0x12_0000, 0x13_f000, 0x14_1000, 0x17_f000, 0x18_f000];
        salvaged(t, &bad)
    },
}

scenario! {
    name: "mechanism/unreliable-list",
    proves: "where the kernel finds no memory to note which 4 KiB of a huge page are bad, not one byte of the page can be read any more",
    needs: Needs::NOTHING.huge_2m(1 + raw_list::PAGES),
    run: |t| {
        let file = memory::hugetlb_2m(MIB_2)?;
        let guest = Mapping::shared(&file, MIB_2, MIB_2)?;
        fill(guest.base(), MIB_2);
        raw_list::give_up(&file, guest.base())?;
        let copy = Mapping::shared(memory::shmem(MIB_2)?, MIB_2, MIB_2)?;
        let lost = salvage(&file, 0..MIB_2, copy.base())?;
        t.equal("4 KiB that cannot be read", lost.len(), MIB_2 / KIB_4);
        Ok(())
    },
}

/// Poisons a fresh 2 MiB page at these offsets, and claims that just those cannot be read from its file.
fn salvaged(t: &mut Trial, bad: &[usize]) -> Result<()> {
    inject::available()?;
    let file = memory::hugetlb_2m(MIB_2)?;
    let guest = Mapping::shared(&file, MIB_2, MIB_2)?;
    fill(guest.base(), MIB_2);
    // The first error takes the page from the page tables, and with it the way to the frames of the others.
    let frames = bad
        .iter()
        .map(|offset| crate::pages::frame(guest.base() + offset)?.context("nothing is mapped"))
        .collect::<Result<Vec<u64>>>()?;
    for (index, frame) in frames.into_iter().enumerate() {
        let said = inject::corrupt_frame(frame).map_err(|error| error.raw_os_error());
        let expected = if index == 0 { Ok(()) } else { Err(Some(libc::EHWPOISON)) };
        t.equal(format!("error {index}"), said, expected);
    }
    let copy = Mapping::shared(memory::shmem(MIB_2)?, MIB_2, MIB_2)?;
    let lost = salvage(&file, 0..MIB_2, copy.base())?;
    t.equal("just these 4 KiB cannot be read", lost.as_slice(), bad);
    let found = survey(copy.base(), 0..MIB_2);
    t.saw("the salvaged bytes", found.summary());
    t.equal("all others were read as written", (found.good, found.zero), (512 - bad.len(), bad.to_vec()));
    Ok(())
}
