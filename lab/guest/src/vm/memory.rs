//! A guest's memory as the host has it: where the VMM has mapped it, which frame is behind a page now, and making that frame fail.

use crate::{inject, pages};
use anyhow::{Context, Result, bail};
use rustix::io::pread;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

/// How long a VMM may take to keep its guest from memory that the kernel has left there.
const PATIENCE: Duration = Duration::from_secs(20);

/// The memory of a VMM's guest. All of it lies below the hole of a PC's address space, so that a guest physical address is an offset.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    vmm: u32,
    base: u64,
    len: u64,
}

impl GuestMemory {
    /// Memory of which it is not known where it is.
    pub(crate) fn unknown(vmm: u32, len: u64) -> Self {
        Self { vmm, base: 0, len }
    }

    /// Looks for it among the VMM's mappings.
    pub(crate) fn find(vmm: u32, len: u64) -> Result<Self> {
        let path = format!("/proc/{vmm}/maps");
        let maps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let base = shared_range(&maps, len);
        let base = base.with_context(|| format!("the VMM has no {len} bytes of shared memory"))?;
        Ok(Self { vmm, base, len })
    }

    /// Makes a frame of the guest fail, as a scrubber would find it, and says whether that came to anything. When this returns, the host's kernel has dealt with it. A page that is being mended is awaited until `deadline` if it is ever to come back; of a page that the host has taken away nothing more can fail, and one that it cannot take away, because others are at work on it, stays as it is.
    pub(crate) fn fail(&self, frame: u64, comes_back: bool, deadline: Instant) -> Result<bool> {
        let gpa = frame * 4096;
        if gpa >= self.len {
            bail!("the guest has no memory at {gpa:#x}");
        }
        let address = self.base + gpa;
        let host = loop {
            match self.frame_behind(address)? {
                Some(host) => break host,
                None if !comes_back => return Ok(false),
                None if Instant::now() > deadline => {
                    bail!("the VMM has nothing mapped at {address:#x}")
                }
                None => thread::yield_now(),
            }
        };
        match inject::corrupt_frame(host) {
            // In use when it was looked at: taken away all the same, as a rule.
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EHWPOISON)) => {
                Err(error).with_context(|| format!("cannot corrupt frame {host:#x}"))
            }
            _ => self.taken(address, host),
        }
    }

    /// What of it the VMM has mapped now, besides hugetlb pages.
    pub(super) fn mapped(&self) -> Result<Mapped> {
        let path = format!("/proc/{}/smaps", self.vmm);
        let smaps = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(mapped(&smaps, self.base..self.base + self.len))
    }

    /// Whether what was made to fail is gone. A page that the host's kernel calls failed and cannot unmap it leaves to the VMM, which it has told: that one is awaited.
    fn taken(&self, address: u64, host: u64) -> Result<bool> {
        let patience = Instant::now() + PATIENCE;
        while self.frame_behind(address)?.is_some() {
            if !poisoned(host)? || Instant::now() > patience {
                return Ok(false);
            }
            thread::yield_now();
        }
        Ok(true)
    }

    /// What is behind an address of the VMM's. New memory need not be in its page tables yet: so it is read from outside first, which a page that was taken away answers with an error.
    fn frame_behind(&self, address: u64) -> Result<Option<u64>> {
        let path = format!("/proc/{}/mem", self.vmm);
        let memory = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        if pread(&memory, &mut [0], address).is_err() {
            return Ok(None);
        }
        let path = format!("/proc/{}/pagemap", self.vmm);
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        let mut entry = [0; 8];
        pread(&file, &mut entry, address / 4096 * 8)
            .with_context(|| format!("cannot read {path}"))?;
        let entry = u64::from_ne_bytes(entry);
        // Bit 63: present. Bits 0 to 54: the frame.
        Ok((entry >> 63 == 1).then_some(entry & ((1 << 55) - 1)))
    }
}

/// Bytes of guest memory by the size of the mappings that they are in.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Mapped {
    /// Transparent huge pages that are mapped whole.
    pub(crate) huge: u64,
    /// 4 KiB pages.
    pub(crate) small: u64,
}

/// What `/proc/PID/smaps` says of the mappings that begin in a range. It counts no hugetlb page as resident.
fn mapped(smaps: &str, range: Range<u64>) -> Mapped {
    let (mut inside, mut resident, mut huge) = (false, 0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next().unwrap_or_default(), words.next());
        let kib = || value.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
        match name.split_once('-') {
            Some((from, _)) => {
                inside = u64::from_str_radix(from, 16).is_ok_and(|from| range.contains(&from));
            }
            None if inside && name == "Rss:" => resident += kib() << 10,
            None if inside && name == "ShmemPmdMapped:" => huge += kib() << 10,
            None => {}
        }
    }
    let small = resident - huge;
    Mapped { huge, small }
}

/// Whether something failed because the VMM has ended.
pub(crate) fn belongs_to_nobody(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.raw_os_error() == Some(libc::ESRCH))
}

/// Whether the kernel says of a frame, or of the huge page that it is in, that it has failed.
fn poisoned(frame: u64) -> Result<bool> {
    for first in [frame, frame & !0x1ff, frame & !0x3ffff] {
        let flags = pages::flags(first)?;
        let around = first == frame || flags & pages::KPF_HUGE != 0;
        if around && flags & pages::KPF_HWPOISON != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The start of `len` bytes of shared writable mappings of files side by side. Next to them may lie what is shared with the kernel, as a vCPU's page of registers is.
fn shared_range(maps: &str, len: u64) -> Option<u64> {
    let mut whole: Option<(u64, u64)> = None;
    let mut ranges = Vec::new();
    for line in maps.lines() {
        let mut words = line.split(' ');
        let (from, to) = words.next()?.split_once('-')?;
        let (from, to) = (
            u64::from_str_radix(from, 16).ok()?,
            u64::from_str_radix(to, 16).ok()?,
        );
        if words.next()? != "rw-s" || line.contains("anon_inode:") {
            ranges.extend(whole.take());
            continue;
        }
        whole = Some(match whole {
            Some((start, end)) if end == from => (start, to),
            other => {
                ranges.extend(other);
                (from, to)
            }
        });
    }
    ranges.extend(whole);
    ranges
        .into_iter()
        .find(|(from, to)| to - from == len)
        .map(|(from, _)| from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_pages_are_what_is_resident_and_not_mapped_whole() {
        let smaps = "1000-2000 rw-p 0 00:00 0\nRss:  4 kB\nShmemPmdMapped:  0 kB\n\
                     200000-600000 rw-s 0 00:01 7 /memfd:guest\nRss:  2056 kB\nShmemPmdMapped:  2048 kB\n\
                     600000-800000 rw-s 0 00:01 8 /memfd:guest\nRss:  0 kB\nShared_Hugetlb:  2048 kB\n\
                     800000-801000 rw-s 0 00:01 9 /memfd:guest\nRss:  4 kB\nShmemPmdMapped:  0 kB\n";
        let (huge, small) = (2 << 20, 8 << 10);
        assert_eq!(mapped(smaps, 0x20_0000..0x80_0000), Mapped { huge, small });
    }

    #[test]
    fn shared_memory_is_found_whole_and_in_pieces() {
        let maps = "1000-2000 rw-p 0 00:00 0\n\
                    2000-4000 rw-s 0 00:01 7 /memfd:guest\n\
                    4000-6000 rw-s 0 00:01 8 /memfd:guest\n\
                    6000-7000 r--p 0 00:00 0\n\
                    8000-9000 rw-s 0 00:0e 3 anon_inode:kvm-vcpu:0\n\
                    9000-a000 rw-s 0 00:01 9 /memfd:guest\n\
                    a000-b000 rw-s 0 00:0e 3 anon_inode:kvm-vcpu:1\n";
        assert_eq!(shared_range(maps, 0x4000), Some(0x2000));
        assert_eq!(shared_range(maps, 0x1000), Some(0x9000));
        assert_eq!(shared_range(maps, 0x2000), None);
        assert_eq!(shared_range(maps, 0x3000), None);
    }
}
