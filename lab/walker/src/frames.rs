//! Page frames: which one is behind an address, what the kernel uses one for, and one of each use that the walker does not have itself.

use crate::check::PAGE;
use anyhow::{Context, Result, bail};
use rustix::io::pread;
use rustix::mm::{MapFlags, ProtFlags};
use std::fs::{self, File};

/// Flags of `/proc/kpageflags` (include/uapi/linux/kernel-page-flags.h).
const SLAB: u64 = 1 << 7;
const BUDDY: u64 = 1 << 10;

/// The frames behind a range of this process's addresses, all of which must be present.
pub(crate) fn behind(base: usize, pages: usize) -> Result<Vec<u64>> {
    let entries = table("/proc/self/pagemap", (base / PAGE) as u64, pages)?;
    let frame = |entry: u64| {
        // Bit 63: present. Bits 0 to 54: the frame (Documentation/admin-guide/mm/pagemap.rst).
        if entry >> 63 == 0 {
            bail!("a page that was just written is not present");
        }
        Ok(entry & ((1 << 55) - 1))
    };
    entries.into_iter().map(frame).collect()
}

/// The flags of a frame.
pub(crate) fn flags(frame: u64) -> Result<u64> {
    Ok(table("/proc/kpageflags", frame, 1)?[0])
}

/// A frame that nobody uses: one that was ours until now, and went back to the kernel.
pub(crate) fn free(number: u64) -> Result<u64> {
    const LEN: usize = 16 << 20;
    // SAFETY: a mapping where the kernel chooses touches nothing that exists.
    let base = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            LEN,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE | MapFlags::POPULATE,
        )
    }
    .context("cannot allocate what is to be given back")?;
    let frames = behind(base as usize, LEN / PAGE);
    // SAFETY: the mapping just made, which nothing points into.
    unsafe { rustix::mm::munmap(base, LEN) }.context("cannot give memory back")?;
    let mut given_back = Vec::new();
    for frame in frames? {
        // The kernel keeps some at hand, which are not free in its books.
        if flags(frame)? & BUDDY != 0 {
            given_back.push(frame);
        }
    }
    let len = given_back.len() as u64;
    let index = (len / 2 + number * 7).checked_rem(len);
    let index = index.context("the kernel keeps all that was given back")?;
    Ok(given_back[index as usize])
}

/// A frame of the kernel's instructions: those that every write to a file goes through, the walker's own words included.
pub(crate) fn kernel_text(number: u64) -> Result<u64> {
    let map = fs::read_to_string("/proc/iomem").context("cannot read /proc/iomem")?;
    let line = map.lines().find(|line| line.ends_with("Kernel code"));
    let start = line.and_then(|line| hex(line.trim().split('-').next()?));
    let start = start.context("/proc/iomem does not say where the kernel is")?;
    let symbols = fs::read_to_string("/proc/kallsyms").context("cannot read /proc/kallsyms")?;
    let address = |name| {
        let mut lines = symbols.lines().map(|line| line.split(' '));
        let found = lines.find_map(|mut words| {
            Some((words.next()?, words.nth(1)?)).filter(|(_, symbol)| *symbol == name)
        });
        found
            .and_then(|(address, _)| hex(address))
            .with_context(|| format!("the kernel has no {name}"))
    };
    let offset = address("vfs_write")? - address("_text")?;
    Ok((start + offset) / PAGE as u64 + number)
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// A frame of the kernel's small objects.
pub(crate) fn slab(number: u64) -> Result<u64> {
    // The first ones are the kernel's oldest, without which nothing goes on.
    let mut left = 64 + number;
    for frame in 0.. {
        let flags = flags(frame).context("the kernel says of too few pages that they are slabs")?;
        if flags & SLAB != 0 {
            if left == 0 {
                return Ok(frame);
            }
            left -= 1;
        }
    }
    unreachable!("memory ends somewhere")
}

fn table(path: &str, first: u64, count: usize) -> Result<Vec<u64>> {
    let file = File::open(path).with_context(|| format!("cannot open {path}"))?;
    let mut bytes = vec![0; count * 8];
    let mut done = 0;
    while done < bytes.len() {
        match pread(&file, &mut bytes[done..], first * 8 + done as u64) {
            Ok(0) => bail!("{path} ends before entry {}", first + (done / 8) as u64),
            Ok(more) => done += more,
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    Ok(bytes
        .chunks_exact(8)
        .map(|entry| u64::from_ne_bytes(entry.try_into().expect("chunks of eight")))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_behind_neighbouring_pages_are_different() {
        let mut memory = vec![1u8; 4 * PAGE];
        memory.fill(2);
        let base = (memory.as_ptr() as usize).next_multiple_of(PAGE);
        let frames = behind(base, 3).unwrap();
        // Without privilege the kernel tells zeros.
        assert!(frames.iter().all(|frame| *frame == 0) || frames[0] != frames[1]);
    }
}
