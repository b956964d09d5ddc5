//! The kernel's selftest of memory failure on ordinary pages, written again from what it is for: anonymous memory and the cache of a file, clean and dirty, hard and soft. What a process gets from the kernel alone, and under pagemend where it is memory that a guest can have.

use crate::faults::{self, Fault};
use crate::file_system::FileSystem;
use crate::guest::{Guest, Kind, gpa};
use crate::inject;
use crate::memory::{KIB_4, Mapping};
use crate::pages;
use crate::pattern::{fill, survey, word};
use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use anyhow::{Context, Result};
use pagemend::{Pagemend, RegionConfig};
use pagemend_lab_protocol::{Needs, ScenarioInfo, Set};
use rustix::mm::MapFlags;
use std::os::fd::OwnedFd;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Memory {
    Anonymous,
    CleanFile,
    DirtyFile,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Offline {
    /// `MADV_HWPOISON`.
    Hard,
    /// `MADV_SOFT_OFFLINE`.
    Soft,
}

inventory::submit! {
    Family(|| {
        let memories = [
            (Memory::Anonymous, "anonymous", "anonymous memory"),
            (Memory::CleanFile, "clean-file", "a file's cache that is on disk"),
            (Memory::DirtyFile, "dirty-file", "a file's cache that is not on disk yet"),
        ];
        let offlines = [(Offline::Hard, "hard", "an error in"), (Offline::Soft, "soft", "soft offline of")];
        let cases = memories.into_iter().flat_map(|memory| offlines.map(|offline| (memory, offline)));
        cases.map(|((memory, name, of), (offline, how, what))| Scenario {
            info: ScenarioInfo {
                name: format!("outside/selftest-memory-failure-{name}-{how}"),
                proves: format!("{what} {of}: {}", promise(memory, offline)),
                needs: Needs::NOTHING,
                set: Set::Default,
            },
            run: Box::new(move |t| selftest(t, memory, offline)),
        }).collect()
    })
}

/// Whether the bytes are gone.
fn loses(memory: Memory, offline: Offline) -> bool {
    offline == Offline::Hard && memory != Memory::CleanFile
}

fn promise(memory: Memory, offline: Offline) -> &'static str {
    match (memory, loses(memory, offline)) {
        (Memory::Anonymous, true) => "4 KiB are lost, and a touch is told so; the same under pagemend, which tells it",
        (_, true) => "4 KiB are lost, and a touch is told so",
        (Memory::Anonymous, false) => "the bytes are in another frame, and nobody is told; the same under pagemend",
        (_, false) => "the bytes are in another frame, and nobody is told",
    }
}

fn selftest(t: &mut Trial, memory: Memory, offline: Offline) -> Result<()> {
    if memory == Memory::Anonymous {
        let mapping = Mapping::anonymous(KIB_4, KIB_4, MapFlags::empty())?;
        fill(mapping.base(), KIB_4);
        break_it(t, &mapping, memory, offline)?;
        drop(mapping);
        return under_pagemend(t, offline);
    }
    let file_system = FileSystem::new()?;
    let file = file_system.file(KIB_4)?;
    let mapping = Mapping::shared(&file, KIB_4, KIB_4)?;
    fill(mapping.base(), KIB_4);
    if memory == Memory::CleanFile {
        rustix::fs::fsync(&file)?;
    }
    break_it(t, &mapping, memory, offline)?;
    refused(t, &mapping, &file)
}

/// Breaks the only page of a mapping, and claims what the selftest does.
fn break_it(t: &mut Trial, mapping: &Mapping, memory: Memory, offline: Offline) -> Result<()> {
    let address = mapping.base();
    let corrupted = pages::hardware_corrupted();
    let frame = pages::frame(address)?.context("nothing is mapped")?;
    match offline {
        Offline::Hard => inject::madvise(address).0.context("MADV_HWPOISON")?,
        Offline::Soft => inject::soft_offline(address).context("MADV_SOFT_OFFLINE")?,
    }
    let touched = faults::load(address);
    if loses(memory, offline) {
        t.equal("a touch", touched, Err(Fault::action_required(address, 12)));
        t.claim("its place in the page tables is marked", pages::is_entry(address)?);
    } else {
        t.equal("a touch", touched, Ok(word(0)));
        t.claim("it is in another frame", pages::frame(address)?.is_some_and(|now| now != frame));
        t.equal("frames that read as written", survey(address, 0..KIB_4).good, 1);
    }
    let poisoned = || Ok::<_, anyhow::Error>(pages::flags(frame)? & pages::KPF_HWPOISON != 0);
    t.equal("KiB more that are corrupted", pages::hardware_corrupted() - corrupted, 4);
    t.claim("the frame is flagged as bad", poisoned()?);
    inject::unpoison(frame).context("cannot take the error back")?;
    t.equal("KiB that are corrupted after it is taken back", pages::hardware_corrupted(), corrupted);
    t.claim("the frame is not flagged any more", !poisoned()?);
    Ok(())
}

/// The same with guest memory.
fn under_pagemend(t: &mut Trial, offline: Offline) -> Result<()> {
    const BAD: usize = 0x5000;
    let guest = Guest::of(Kind::Anonymous)?;
    let bad = guest.base() + BAD;
    match offline {
        Offline::Hard => {
            inject::madvise_in_use(bad)?;
            t.equal("under pagemend, a touch", faults::load(bad), Err(Fault::action_required(bad, 12)));
            guest.lost_only(t, &[BAD]);
        }
        Offline::Soft => {
            inject::soft_offline(bad).context("MADV_SOFT_OFFLINE")?;
            guest.lost_only(t, &[]);
        }
    }
    Ok(())
}

/// A file on a disk is no memory for a guest: a clean page comes back by itself, and a dirty one is the file system's loss.
fn refused(t: &mut Trial, mapping: &Mapping, file: &OwnedFd) -> Result<()> {
    let memory = mapping.base() as *mut u8;
    // SAFETY: the mapping outlives the attempt, and nothing refers into it.
    let region = unsafe { RegionConfig::new("ram", gpa(0), memory, KIB_4 as u64) }.file(file, 0)?;
    let refused = Pagemend::builder().region(region).start().err();
    t.claim("pagemend refuses it as guest memory", refused.is_some());
    t.saw("with the words", refused.map(|error| error.to_string()).unwrap_or_default());
    Ok(())
}
