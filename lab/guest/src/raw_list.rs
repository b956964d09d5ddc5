//! The kernel's list of what is bad in a huge page, made unreliable. The kernel notes each bad 4 KiB in a small allocation that may not wait (`folio_set_hugetlb_hwpoison` in `mm/memory-failure.c`); where there is no memory for one, it gives the whole list up, for good.

use crate::inject::{self, CORRUPT};
use crate::memory::{self, KIB_4, MIB_2, Mapping};
use crate::pages::frame;
use crate::pattern::fill;
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, pread, write};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};

/// Huge pages that are used up for it.
pub(crate) const PAGES: u32 = 8;

const FRAMES: usize = MIB_2 / KIB_4;

/// Below this much free memory allocations have to wait, and those that may not fail.
const KEEP_FREE: &str = "/proc/sys/vm/min_free_kbytes";

/// More than any machine of the lab has, in KiB.
const EVERYTHING: &str = "100000000";

/// Makes the kernel give up its list for the first huge page of a file, which is mapped at `base`.
///
/// Notes of errors in other huge pages use up what the allocator has ready; while the kernel keeps all free memory to itself it gets no more. Nothing that allocates may happen meanwhile.
pub(crate) fn give_up(file: impl AsFd, base: usize) -> Result<()> {
    inject::available()?;
    let spare = memory::hugetlb_2m(PAGES as usize * MIB_2)?;
    let mapping = Mapping::shared(&spare, PAGES as usize * MIB_2, MIB_2)?;
    fill(mapping.base(), mapping.len());
    let errors = Errors::new()?;
    // By turns, since a page whose list is given up gives its notes back: few, and fewer than the other page can take.
    let spares: Vec<(usize, usize)> = (0..FRAMES - 1)
        .flat_map(|number| (0..PAGES as usize).map(move |page| (page, number)))
        .collect();
    let spare_frames = frames(
        mapping.base(),
        spares
            .iter()
            .map(|(page, number)| page * MIB_2 + number * KIB_4),
    )?;
    let page_frames = frames(base, (0..FRAMES - 1).map(|number| number * KIB_4))?;
    // The first error in a page does more than to be noted.
    let (first, rest) = spare_frames.split_at(PAGES as usize);
    first.iter().try_for_each(|frame| errors.raise(frame))?;
    errors.raise(&page_frames[0])?;

    let before = fs::read_to_string(KEEP_FREE).context("vm.min_free_kbytes")?;
    fs::write(KEEP_FREE, EVERYTHING).context("vm.min_free_kbytes")?;
    let exhausted = rest
        .iter()
        .zip(&spares[PAGES as usize..])
        .any(|(frame, (page, _))| errors.raise(frame).is_ok() && given_up(&spare, page * MIB_2));
    let done = page_frames[1..]
        .iter()
        .any(|frame| errors.raise(frame).is_ok() && given_up(&file, 0));
    fs::write(KEEP_FREE, before).context("vm.min_free_kbytes")?;
    match (exhausted, done) {
        (_, true) => Ok(()),
        (false, _) => bail!("the kernel found memory for all its notes"),
        (true, false) => bail!("the kernel found memory for its notes on this page"),
    }
}

/// Where errors are raised, open before memory is short.
struct Errors(OwnedFd);

impl Errors {
    fn new() -> Result<Self> {
        let file = open(CORRUPT, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        file.map(Self).context("cannot open corrupt-pfn")
    }

    fn raise(&self, frame: &str) -> Result<()> {
        match write(&self.0, frame.as_bytes()) {
            // Bad already, as a page, which is what it says of every error but the first.
            Ok(_) | Err(Errno::HWPOISON) => Ok(()),
            Err(error) => Err(error).context("cannot corrupt a frame"),
        }
    }
}

/// The frames behind these offsets, as the kernel wants them written.
fn frames(base: usize, offsets: impl Iterator<Item = usize>) -> Result<Vec<String>> {
    offsets
        .map(|offset| {
            Ok(format!(
                "{:#x}",
                frame(base + offset)?.context("nothing is mapped there")?
            ))
        })
        .collect()
}

/// Whether the last 4 KiB of a huge page, in which there was no error, cannot be read.
fn given_up(file: impl AsFd, page: usize) -> bool {
    let mut word = [0; 8];
    pread(file, &mut word, (page + MIB_2 - KIB_4) as u64) == Err(Errno::IO)
}
