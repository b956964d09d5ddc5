//! What a child process finds where its parent has a poison marker.

use crate::faults;
use crate::memory::{self, KIB_4, MIB_2, Mapping, advise};
use crate::pattern::{fill, tell};
use crate::registry::scenario;
use crate::staging::stage_small;
use crate::trial::Trial;
use crate::userfault::Userfault;
use crate::witness::Witness;
use anyhow::Result;
use pagemend_lab_protocol::Needs;
use rustix::mm::MapFlags;
use std::ops::Range;

const LOST: usize = 0x2000;

scenario! {
    name: "mechanism/marker-and-fork",
    proves: "a child does not inherit the poison marker of shared memory and reads what the file has there; MADV_DONTFORK on the lost frame alone makes it fault and leaves it the rest",
    needs: Needs::NOTHING,
    run: |t| {
        for registered in [true, false] {
            child(t, registered, None)?;
            child(t, registered, Some(0..MIB_2))?;
            child(t, registered, Some(LOST..LOST + KIB_4))?;
        }
        Ok(())
    },
}

/// Forks a child from a process with a marker, and has it touch the lost frame and a healthy one.
fn child(t: &mut Trial, registered: bool, dont_fork: Option<Range<usize>>) -> Result<()> {
    let file = memory::shmem(MIB_2)?;
    let filling = Mapping::shared(&file, MIB_2, MIB_2)?;
    fill(filling.base(), MIB_2);
    let staged = stage_small(Mapping::shared(&file, MIB_2, MIB_2)?, &[LOST])?;
    let base = staged.view.base();
    let _registration = registered.then_some(staged.userfault);
    if let Some(range) = &dont_fork {
        advise(base + range.start, range.len(), libc::MADV_DONTFORK)?;
    }
    let mut child = Witness::fork(false)?;
    let case = format!(
        "{}, {}",
        if registered { "registered" } else { "not registered" },
        match dont_fork {
            None => "inherited".into(),
            Some(range) => format!("MADV_DONTFORK on {} KiB", range.len() / 1024),
        }
    );
    let lost = child.touch(base + LOST)?;
    t.saw(format!("{case}: the child at the lost frame"), tell(lost, LOST));
    t.saw(format!("{case}: the child at a healthy one"), tell(child.touch(base)?, 0));
    t.claim(format!("{case}: the parent's marker stays"), faults::load(base + LOST).is_err());
    Ok(())
}

scenario! {
    name: "mechanism/marker-and-fork-anonymous",
    proves: "a child inherits the poison marker of private memory",
    needs: Needs::NOTHING,
    run: |t| {
        let private = Mapping::anonymous(MIB_2, MIB_2, MapFlags::empty())?;
        let userfault = Userfault::user_mode()?;
        userfault.register_missing(private.base()..private.base() + MIB_2)?;
        userfault.poison(private.base() + LOST..private.base() + LOST + KIB_4)?;
        for case in ["not touched otherwise", "touched elsewhere"] {
            let mut child = Witness::fork(false)?;
            let lost = child.touch(private.base() + LOST)?;
            t.saw(format!("{case}: the child at the lost frame"), tell(lost, LOST));
            if case == "touched elsewhere" {
                t.claim("the child's touch faults", lost.is_err());
            } else {
                // A page of its own makes the mapping one that fork copies.
                userfault.zero(private.base()..private.base() + KIB_4)?;
                // SAFETY: a write into a mapping of the scenario.
                let written = unsafe { faults::store(private.base(), 1) };
                t.equal("a page of its own", written, Ok(()));
            }
        }
        Ok(())
    },
}
