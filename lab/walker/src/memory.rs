//! What the walker owns: most of the guest's memory, a file that is as its disk has it, and one that is newer. And the frames behind all that, which a scenario wants to know.

use crate::check::{self, PAGE};
use crate::frames;
use crate::setup;
use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::walker::Use;
use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, MlockFlags, ProtFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;

/// Bytes that the kernel has for itself and for what is allocated and given back.
const LEFT: usize = 64 << 20;
/// Huge pages of the guest, and the grain of what threads share out.
pub(crate) const HUGE: usize = 2 << 20;
/// Bytes of each file.
const FILE: usize = 256 << 10;

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// A stretch of the walker's addresses with one use.
pub(crate) struct Area {
    pub(crate) base: usize,
    pub(crate) len: usize,
    pub(crate) what: Use,
    frames: Mutex<Vec<u64>>,
}

impl Area {
    /// The addresses of its pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = usize> + use<> {
        (self.base..self.base + self.len).step_by(PAGE)
    }

    /// Writes the words of the first round.
    fn fill(&self) {
        for address in (self.base..self.base + self.len).step_by(8) {
            // SAFETY: the area is a writable mapping of the walker's, into which no reference goes.
            unsafe { (address as *mut u64).write_volatile(check::word(address, 0)) };
        }
    }

    fn note_frames(&self) -> Result<()> {
        let found = frames::behind(self.base, self.len / PAGE)?;
        *self.frames.lock().expect("nobody panics with it") = found;
        Ok(())
    }

    /// The frame of a page as it is now, noted for the time when it is gone.
    fn frame_now(&self, index: usize) -> Result<u64> {
        let now = frames::behind(self.base + index * PAGE, 1)?[0];
        self.frames.lock().expect("nobody panics with it")[index] = now;
        Ok(now)
    }
}

/// All of it. It is never given back: the machine ends with it.
pub(crate) struct Memory {
    /// One for each thread.
    pub(crate) shares: Vec<Area>,
    pub(crate) clean: Area,
    pub(crate) dirty: Area,
    dirty_file: OwnedFd,
}

impl Memory {
    /// Takes it, for so many threads.
    pub(crate) fn own(threads: usize) -> Result<Self> {
        let (clean, _) = file("clean")?;
        let (dirty, dirty_file) = file("dirty")?;
        let available = usize::try_from(setup::available()? << 10)?;
        let share = available.saturating_sub(LEFT) / threads / HUGE * HUGE;
        if share < 2 * HUGE {
            bail!("{available} bytes of memory are too few to own any");
        }
        let shares: Vec<_> = (0..threads)
            .map(|_| anonymous(share))
            .collect::<Result<_>>()?;
        for area in shares.iter().chain([&clean, &dirty]) {
            area.note_frames()?;
        }
        Ok(Self {
            shares,
            clean,
            dirty,
            dirty_file,
        })
    }

    /// Bytes of memory that it owns, besides files.
    pub(crate) fn owned(&self) -> usize {
        self.shares.iter().map(|share| share.len).sum()
    }

    /// The frame behind one of its pages. Pages with numbers up to the number of huge pages are each in another one, and in another thread's share than the one before.
    pub(crate) fn locate(&self, what: Use, number: u64) -> Result<u64> {
        let number = usize::try_from(number)?;
        match what {
            Use::Walker => {
                let share = &self.shares[number % self.shares.len()];
                let huge = number / self.shares.len() % (share.len / HUGE);
                // Anywhere in a huge page, but never its first, which is what a rounded address would be.
                let page = 1 + (number * 37 + 4) % 511;
                share.frame_now(huge * HUGE / PAGE + page)
            }
            Use::CleanCache => self.clean.frame_now(1 + number % (FILE / PAGE - 1)),
            Use::DirtyCache => self.dirty.frame_now(1 + number % (FILE / PAGE - 1)),
            other => bail!("the walker has no {other:?}"),
        }
    }

    /// The frame that was behind an address, and what it was used for.
    pub(crate) fn frame_at(&self, address: usize) -> Option<(u64, Use)> {
        let area = self
            .areas()
            .find(|area| (area.base..area.base + area.len).contains(&address))?;
        let frames = area.frames.lock().expect("nobody panics with it");
        Some((frames[(address - area.base) / PAGE], area.what))
    }

    /// The address of the page that a frame is behind.
    pub(crate) fn address_of(&self, frame: u64) -> Option<usize> {
        self.areas().find_map(|area| {
            let frames = area.frames.lock().expect("nobody panics with it");
            let index = frames.iter().position(|theirs| *theirs == frame)?;
            Some(area.base + index * PAGE)
        })
    }

    fn areas(&self) -> impl Iterator<Item = &Area> {
        self.shares.iter().chain([&self.clean, &self.dirty])
    }

    /// Writes the dirty file to its disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dirty_file)?)
    }
}

/// Filled memory, in huge pages where the kernel has them.
fn anonymous(len: usize) -> Result<Area> {
    // SAFETY: a mapping where the kernel chooses touches nothing that exists.
    let start = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            len + HUGE,
            READ_WRITE,
            MapFlags::PRIVATE,
        )
    }
    .context("cannot reserve memory to own")?;
    let area = Area {
        base: (start as usize).next_multiple_of(HUGE),
        len,
        what: Use::Walker,
        frames: Mutex::default(),
    };
    area.fill();
    lock(&area)?;
    Ok(area)
}

/// A file whose pages are in memory, as its disk has them.
fn file(name: &str) -> Result<(Area, OwnedFd)> {
    let path = format!("{}/{name}", setup::MOUNTED);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .with_context(|| format!("cannot make {path}"))?;
    rustix::fs::ftruncate(&file, FILE as u64).with_context(|| format!("cannot size {path}"))?;
    // SAFETY: a mapping where the kernel chooses touches nothing that exists.
    let base = unsafe {
        rustix::mm::mmap(
            std::ptr::null_mut(),
            FILE,
            READ_WRITE,
            MapFlags::SHARED,
            &file,
            0,
        )
    }
    .with_context(|| format!("cannot map {path}"))?;
    let area = Area {
        base: base as usize,
        len: FILE,
        what: if name == "clean" {
            Use::CleanCache
        } else {
            Use::DirtyCache
        },
        frames: Mutex::default(),
    };
    area.fill();
    rustix::fs::fsync(&file).with_context(|| format!("cannot write {path} to its disk"))?;
    lock(&area)?;
    Ok((area, file))
}

/// Keeps pages where they are.
fn lock(area: &Area) -> Result<()> {
    // SAFETY: the range is a mapping of the walker's; locking changes none of its bytes.
    unsafe { rustix::mm::mlock_with(area.base as *mut _, area.len, MlockFlags::empty()) }
        .context("cannot lock memory")
}
