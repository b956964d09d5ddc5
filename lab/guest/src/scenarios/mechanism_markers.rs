//! What a poison marker survives. One that is dropped leaves a hole that the next touch fills with zeros: silent corruption, so whoever relies on markers must know each way to lose them.

use crate::faults;
use crate::memory::{self, KIB_4, MIB_2, Mapping};
use crate::pattern::{fill, tell};
use crate::registry::{Family, Scenario, scenario};
use crate::staging::stage_small;
use crate::trial::Trial;
use crate::userfault::Userfault;
use crate::witness::Witness;
use anyhow::{Context, Result};
use pagemend_lab_protocol::{Needs, ScenarioInfo, Set};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::mm::MapFlags;

const LOST: usize = 0x2000;
/// `MADV_COLLAPSE`.
const COLLAPSE: i32 = 25;

scenario! {
    name: "mechanism/marker-and-fork",
    proves: "a child does not inherit the poison marker of shared memory; MADV_DONTFORK keeps it from reading what is not there",
    needs: Needs::NOTHING,
    run: |t| {
        for registered in [true, false] {
            for dont_fork in [false, true] {
                let file = memory::shmem(MIB_2)?;
                let filling = Mapping::shared(&file, MIB_2, MIB_2)?;
                fill(filling.base(), LOST);
                fill_rest(filling.base());
                let staged = stage_small(Mapping::shared(&file, MIB_2, MIB_2)?, &[LOST])?;
                let base = staged.view.base();
                let userfault = registered.then_some(staged.userfault);
                if dont_fork {
                    staged.view.advise(libc::MADV_DONTFORK)?;
                }
                let mut child = Witness::fork(false)?;
                let case = format!(
                    "{}{}",
                    if registered { "registered" } else { "unregistered" },
                    if dont_fork { ", MADV_DONTFORK" } else { "" }
                );
                t.saw(format!("{case}: child, lost frame"), tell(child.touch(base + LOST)?, LOST));
                t.saw(format!("{case}: child, healthy frame"), tell(child.touch(base)?, 0));
                t.claim(format!("{case}: the parent's marker stays"), faults::load(base + LOST).is_err());
                drop(userfault);
            }
        }
        let private = Mapping::anonymous(MIB_2, MIB_2, MapFlags::empty())?;
        let userfault = Userfault::user_mode()?;
        userfault.register(private.base()..private.base() + MIB_2)?;
        userfault.poison(private.base() + LOST..private.base() + LOST + KIB_4)?;
        drop(userfault);
        let mut child = Witness::fork(false)?;
        t.saw("anonymous private memory: child, lost frame", tell(child.touch(private.base() + LOST)?, LOST));
        Ok(())
    },
}

/// The pattern after the lost frame, which stays a hole in the file.
fn fill_rest(base: usize) {
    for offset in (LOST + KIB_4..MIB_2).step_by(8) {
        // SAFETY: a write into a mapping of the scenario.
        unsafe { ((base + offset) as *mut u64).write_volatile(crate::pattern::word(offset)) };
    }
}

/// Something done to memory that holds a marker.
struct Deed {
    name: &'static str,
    proves: &'static str,
    run: fn(&Setting) -> std::io::Result<()>,
}

/// A file with two views: one holds the marker, the other is somebody else's.
struct Setting {
    file: std::os::fd::OwnedFd,
    marked: Mapping,
    other: Mapping,
}

const DEEDS: [Deed; 7] = [
    Deed {
        name: "collapse-other-view",
        proves: "what MADV_COLLAPSE through another mapping of the file does to a poison marker",
        run: |s| s.other.advise(COLLAPSE),
    },
    Deed {
        name: "collapse-marked-view",
        proves: "what MADV_COLLAPSE of the mapping that holds it does to a poison marker",
        run: |s| s.marked.advise(COLLAPSE),
    },
    Deed {
        name: "dontneed",
        proves: "what MADV_DONTNEED does to a poison marker",
        run: |s| s.marked.advise(libc::MADV_DONTNEED),
    },
    Deed {
        name: "remove",
        proves: "what MADV_REMOVE through another mapping does to a poison marker",
        run: |s| s.other.advise(libc::MADV_REMOVE),
    },
    Deed {
        name: "punch-hole",
        proves: "what punching the lost frame out of the file does to a poison marker",
        run: |s| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(&s.file, flags, LOST as u64, KIB_4 as u64)?)
        },
    },
    Deed {
        name: "write-to-file",
        proves: "what writing the lost frame through the file does to a poison marker",
        run: |s| {
            rustix::io::pwrite(&s.file, &[1; KIB_4], LOST as u64)?;
            Ok(())
        },
    },
    Deed {
        name: "protect",
        proves: "what mprotect there and back does to a poison marker",
        run: |s| {
            for protection in [libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE] {
                // SAFETY: a mapping of the scenario.
                if unsafe { libc::mprotect(s.marked.base() as *mut _, MIB_2, protection) } != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        },
    },
];

inventory::submit! {
    Family(|| DEEDS.iter().map(|deed| Scenario {
        info: ScenarioInfo {
            name: format!("mechanism/marker-and-{}", deed.name),
            proves: deed.proves.into(),
            needs: Needs::NOTHING,
            set: Set::Default,
        },
        run: Box::new(move |t| observe(t, deed)),
    }).collect())
}

/// Does it under all circumstances that might matter, and sees what a touch of the lost frame gives afterwards.
fn observe(t: &mut Trial, deed: &Deed) -> Result<()> {
    for registered in [true, false] {
        for no_huge in [true, false] {
            for hole in [true, false] {
                let case = [
                    if registered { "registered" } else { "unregistered" },
                    if no_huge { "MADV_NOHUGEPAGE" } else { "huge allowed" },
                    if hole { "hole in the file" } else { "zeros in the file" },
                ]
                .join(", ");
                let file = memory::shmem(MIB_2)?;
                let filling = Mapping::shared(&file, MIB_2, MIB_2)?;
                fill(filling.base(), LOST);
                fill_rest(filling.base());
                if !hole {
                    // SAFETY: a write into a mapping of the scenario.
                    unsafe { ((filling.base() + LOST) as *mut u64).write_volatile(0) };
                }
                let view = Mapping::shared(&file, MIB_2, MIB_2)?;
                if no_huge {
                    view.advise(libc::MADV_NOHUGEPAGE)?;
                }
                let staged = stage_small(view, &[LOST]).with_context(|| case.clone())?;
                let userfault = registered.then_some(staged.userfault);
                let setting = Setting { file, marked: staged.view, other: filling };
                let done = (deed.run)(&setting).map_or_else(|error| error.to_string(), |()| "done".into());
                // Registered for missing pages, a touch of a page that is none any more would wait for a handler that is not there.
                drop(userfault);
                let lost = tell(faults::load(setting.marked.base() + LOST), LOST);
                let healthy = tell(faults::load(setting.marked.base() + MIB_2 - KIB_4), MIB_2 - KIB_4);
                t.saw(case, format!("{done}; the lost frame: {lost}; a healthy one: {healthy}"));
            }
        }
    }
    Ok(())
}
