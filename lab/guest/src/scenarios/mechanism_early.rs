//! Hearing of an error before anybody touches it.

use crate::early_kill::EarlyKill;
use crate::faults::Fault;
use crate::inject;
use crate::memory::{self, MIB_2, Mapping};
use crate::pattern::fill;
use crate::registry::scenario;
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
