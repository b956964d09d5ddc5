//! Kernel selftests of memory failure on huge pages, written again from what they are for. They ask what a process gets from the kernel alone; pagemend's salvage relies on the first, and the second is what an operator turns off.

use crate::guest::{Guest, Kind};
use crate::memory::{self, KIB_4, MIB_2, Mapping};
use crate::pages::Pool;
use crate::pattern::{fill, word};
use crate::registry::scenario;
use crate::inject;
use anyhow::{Context, Result};
use pagemend_lab_protocol::Needs;
use std::fs;
use std::os::fd::OwnedFd;

/// In the second of the pages that are read.
const BAD: usize = MIB_2 + 0x3000;

scenario! {
    name: "outside/selftest-hugetlb-read-hwpoison",
    proves: "reads of a hugetlb file, in chunks of any size, give every byte before a poisoned 4 KiB and every byte behind it, and EIO in between; under pagemend the same 4 KiB are all that is lost",
    needs: Needs::NOTHING.huge_2m(6),
    run: |t| {
        let file = memory::hugetlb_2m(3 * MIB_2)?;
        let mapping = Mapping::shared(&file, 3 * MIB_2, MIB_2)?;
        fill(mapping.base(), mapping.len());
        inject::madvise(mapping.base() + BAD).0.context("cannot poison")?;
        for chunk in [0x1000, 0x3000, 0x1_0000, MIB_2, MIB_2 + 0x5000] {
            let before = read_on(&file, 0, chunk)?;
            t.equal(format!("chunks of {chunk:#x}: reads stop at"), before, BAD);
            let behind = read_on(&file, BAD + KIB_4, chunk)?;
            t.equal(format!("chunks of {chunk:#x}: behind it they go on to"), behind, 3 * MIB_2);
        }
        drop(mapping);
        let guest = Guest::of(Kind::Hugetlb2M)?;
        inject::madvise_in_use(guest.base() + BAD)?;
        guest.pagemend.settle();
        guest.lost_only(t, &[BAD]);
        Ok(())
    },
}

/// Reads from `start` on and checks each word, until the end of the file or EIO. Gives where that was.
fn read_on(file: &OwnedFd, start: usize, chunk: usize) -> Result<usize> {
    let mut buffer = vec![0; chunk];
    let mut at = start;
    loop {
        match rustix::io::pread(file, &mut buffer, at as u64) {
            Ok(0) | Err(rustix::io::Errno::IO) => return Ok(at),
            Ok(read) => {
                let wrong = buffer[..read].chunks_exact(8).enumerate().find(|(index, bytes)| {
                    *bytes != word(at + index * 8).to_ne_bytes()
                });
                anyhow::ensure!(wrong.is_none(), "wrong bytes at {:#x}", at + wrong.map_or(0, |(index, _)| index * 8));
                at += read;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

scenario! {
    name: "outside/selftest-hugetlb-soft-offline",
    proves: "soft offline moves a 2 MiB page's bytes and takes the page from the pool, and does neither where vm.enable_soft_offline is 0; pagemend has nothing to do for it",
    needs: Needs::NOTHING.huge_2m(6),
    run: |t| {
        let pool = Pool::two_mib();
        let guest = Guest::of(Kind::Hugetlb2M)?;
        let total = pool.total();
        allow(false)?;
        t.claim("where it is turned off it is refused", inject::soft_offline(guest.base() + BAD).is_err());
        t.equal("pages in the pool", pool.total(), total);
        allow(true)?;
        inject::soft_offline(guest.base() + BAD).context("soft offline")?;
        t.equal("pages in the pool after it", pool.total(), total - 1);
        guest.pagemend.settle();
        guest.lost_only(t, &[]);
        Ok(())
    },
}

fn allow(soft_offline: bool) -> Result<()> {
    let value = if soft_offline { "1" } else { "0" };
    fs::write("/proc/sys/vm/enable_soft_offline", value).context("this kernel has no vm.enable_soft_offline")
}
