//! Hearing of an error before anybody touches it.

use crate::early_kill::EarlyKill;
use crate::faults::{self, Fault};
use crate::inject;
use crate::memory::{self, MIB_2, Mapping};
use crate::pattern::fill;
use crate::registry::scenario;
use crate::staging::stage_small;
use crate::trial::Trial;
use anyhow::Result;
use pagemend_lab_protocol::Needs;
use std::os::fd::OwnedFd;

scenario! {
    name: "mechanism/early-kill-hugetlb-2m",
    proves: "a thread with PR_MCE_KILL_EARLY and a signalfd hears of a bad 4 KiB in a 2 MiB page, at its exact address",
    needs: Needs::NOTHING.huge_2m(1),
    run: |t| hear(t, memory::hugetlb_2m(MIB_2)?, 21),
}

scenario! {
    name: "mechanism/early-kill-shmem",
    proves: "a thread with PR_MCE_KILL_EARLY and a signalfd hears of a bad 4 KiB of shmem, at its exact address",
    needs: Needs::NOTHING,
    run: |t| hear(t, memory::shmem(MIB_2)?, 12),
}

fn hear(t: &mut Trial, file: OwnedFd, lsb: u32) -> Result<()> {
    let guest = Mapping::shared(&file, MIB_2, MIB_2)?;
    fill(guest.base(), MIB_2);
    let ear = EarlyKill::start()?;
    t.equal("nothing is told before", ear.told(), None);
    let bad = guest.base() + 0x5000;
    inject::corrupt(bad)?;
    t.equal("it is told once", ear.told(), Some(Fault::action_optional(bad, lsb)));
    t.equal("and not again", ear.told(), None);
    Ok(())
}

scenario! {
    name: "mechanism/early-kill-huge-file-in-pieces",
    proves: "of an error in a transparent huge page of a file that is mapped in 4 KiB pieces nobody hears before a touch, which then faults",
    needs: Needs::NOTHING,
    run: |t| {
        let file = memory::shmem_huge(MIB_2)?;
        let filling = Mapping::shared(&file, MIB_2, MIB_2)?;
        fill(filling.base(), MIB_2);
        let staged = stage_small(Mapping::shared(&file, MIB_2, MIB_2)?, &[0x2000])?;
        drop(filling);
        // A touch would otherwise be a fault that waits for us.
        drop(staged.userfault);
        let ear = EarlyKill::start()?;
        let bad = staged.view.base() + 0x5000;
        inject::corrupt(bad)?;
        t.equal("it is told", ear.told(), None);
        t.equal("a touch", faults::load(bad), Err(Fault::action_required(bad, 12)));
        Ok(())
    },
}
