//! What a poison marker survives. One that is dropped leaves a hole that the next touch fills with zeros: silent corruption, so whoever relies on markers must know each way to lose them.

use crate::faults;
use crate::memory::{self, KIB_4, MIB_2, Mapping, advise};
use crate::pattern::{fill_range, tell};
use crate::registry::{Family, Scenario};
use crate::staging::stage_small;
use crate::trial::Trial;
use crate::userfault::Userfault;
use anyhow::{Context, Result};
use pagemend_lab_protocol::{Needs, ScenarioInfo, Set};
use rustix::fs::{FallocateFlags, fallocate};
use std::io;
use std::os::fd::OwnedFd;

const LOST: usize = 0x2000;
/// `MADV_COLLAPSE`.
const COLLAPSE: i32 = 25;

/// Something done to memory that holds a marker.
struct Deed {
    name: &'static str,
    proves: &'static str,
    /// Whether the marker stays, whatever the circumstances.
    stays: Stays,
    run: fn(&Setting) -> io::Result<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stays {
    /// Always.
    Always,
    /// If the lost frame is a mapping of its own.
    IfSplit,
    /// Never.
    Never,
}

/// A file with two views: one holds the marker, the other is somebody else's.
struct Setting {
    file: OwnedFd,
    marked: Mapping,
    other: Mapping,
}

const DEEDS: [Deed; 7] = [
    Deed {
        name: "collapse-other-view",
        proves: "MADV_COLLAPSE through another mapping of the file drops a poison marker, unless the lost frame is a mapping of its own",
        stays: Stays::IfSplit,
        run: |s| s.other.advise(COLLAPSE),
    },
    Deed {
        name: "collapse-marked-view",
        proves: "MADV_COLLAPSE of the mapping that holds it drops a poison marker, unless the lost frame is a mapping of its own",
        stays: Stays::IfSplit,
        run: |s| s.marked.advise(COLLAPSE),
    },
    Deed {
        name: "dontneed",
        proves: "MADV_DONTNEED drops a poison marker",
        stays: Stays::Never,
        run: |s| s.marked.advise(libc::MADV_DONTNEED),
    },
    Deed {
        name: "remove",
        proves: "a poison marker stays when the file's memory is removed through another mapping",
        stays: Stays::Always,
        run: |s| s.other.advise(libc::MADV_REMOVE),
    },
    Deed {
        name: "punch-hole",
        proves: "a poison marker stays when its page is punched out of the file",
        stays: Stays::Always,
        run: |s| {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            Ok(fallocate(&s.file, flags, LOST as u64, KIB_4 as u64)?)
        },
    },
    Deed {
        name: "write-to-file",
        proves: "a poison marker stays when its page is written through the file",
        stays: Stays::Always,
        run: |s| {
            rustix::io::pwrite(&s.file, &[1; KIB_4], LOST as u64)?;
            Ok(())
        },
    },
    Deed {
        name: "protect",
        proves: "a poison marker stays when the mapping is protected and opened again",
        stays: Stays::Always,
        run: |s| {
            for protection in [libc::PROT_NONE, libc::PROT_READ | libc::PROT_WRITE] {
                // SAFETY: a mapping of the scenario.
                if unsafe { libc::mprotect(s.marked.base() as *mut _, MIB_2, protection) } != 0 {
                    return Err(io::Error::last_os_error());
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

/// How the memory was prepared.
#[derive(Clone, Copy)]
struct Case {
    /// The view with the marker is still registered with its userfaultfd.
    registered: bool,
    /// It has MADV_NOHUGEPAGE.
    no_huge: bool,
    /// The lost frame is a mapping of its own: MADV_DONTFORK on it alone splits it off.
    split: bool,
    contents: Contents,
}

/// What is in the file where the lost frame is.
#[derive(Clone, Copy)]
enum Contents {
    Hole,
    Zeros,
    /// Part of a huge page.
    HugePage,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let contents = [Contents::Hole, Contents::Zeros, Contents::HugePage];
        (0..24).map(move |bits| Self {
            registered: bits & 1 != 0,
            no_huge: bits & 2 != 0,
            split: bits & 4 != 0,
            contents: contents[bits >> 3],
        })
    }

    fn name(self) -> String {
        let contents = match self.contents {
            Contents::Hole => "a hole in the file",
            Contents::Zeros => "zeros in the file",
            Contents::HugePage => "a huge page in the file",
        };
        let mut words = vec![contents];
        let facts = [
            (self.registered, "registered"),
            (self.no_huge, "MADV_NOHUGEPAGE"),
            (self.split, "split off"),
        ];
        words.extend(facts.iter().filter(|(is, _)| *is).map(|(_, word)| *word));
        words.join(", ")
    }

    fn prepare(self) -> Result<(Setting, Userfault)> {
        let huge = matches!(self.contents, Contents::HugePage);
        let file = if huge {
            memory::shmem_huge(MIB_2)?
        } else {
            memory::shmem(MIB_2)?
        };
        let other = Mapping::shared(&file, MIB_2, MIB_2)?;
        fill_range(other.base(), 0..LOST);
        fill_range(other.base(), LOST + KIB_4..MIB_2);
        if matches!(self.contents, Contents::Zeros) {
            rustix::io::pwrite(&file, &[0; KIB_4], LOST as u64)?;
        }
        let view = Mapping::shared(&file, MIB_2, MIB_2)?;
        if self.no_huge {
            view.advise(libc::MADV_NOHUGEPAGE)?;
        }
        let staged = stage_small(view, &[LOST])?;
        if self.split {
            advise(staged.view.base() + LOST, KIB_4, libc::MADV_DONTFORK)?;
        }
        let setting = Setting {
            file,
            marked: staged.view,
            other,
        };
        Ok((setting, staged.userfault))
    }
}

/// Does it under all circumstances that might matter, and sees what a touch of the lost frame gives afterwards.
fn observe(t: &mut Trial, deed: &Deed) -> Result<()> {
    for case in Case::all() {
        let name = case.name();
        let (setting, userfault) = case.prepare().with_context(|| name.clone())?;
        let userfault = case.registered.then_some(userfault);
        let done = (deed.run)(&setting);
        // Registered for missing pages, a touch of a page that is none any more would wait for a handler that is not there.
        drop(userfault);
        let touch = |offset: usize| faults::load(setting.marked.base() + offset);
        let lost = touch(LOST);
        t.saw(
            &name,
            format!(
                "{}; the lost frame: {}; a healthy one: {}",
                done.as_ref().map_or_else(ToString::to_string, |()| "done".into()),
                tell(lost, LOST),
                tell(touch(MIB_2 - KIB_4), MIB_2 - KIB_4)
            ),
        );
        let stays = deed.stays == Stays::Always || (deed.stays == Stays::IfSplit && case.split);
        if stays {
            t.claim(format!("{name}: the marker stays"), lost.is_err());
        } else if deed.stays == Stays::Never {
            t.claim(format!("{name}: the marker is dropped"), lost.is_ok());
        }
    }
    Ok(())
}
