//! What the kernel's counters and tables say of a page: its number, its flags, the pools, the total of bad memory.

use anyhow::{Context, Result};
use rustix::io::pread;
use std::fs;
use std::fs::File;
use std::path::PathBuf;

/// Flags of `/proc/kpageflags`, numbered in the kernel's `include/uapi/linux/kernel-page-flags.h`.
pub(crate) const KPF_HUGE: u64 = 1 << 17;
pub(crate) const KPF_HWPOISON: u64 = 1 << 19;
pub(crate) const KPF_THP: u64 = 1 << 22;

/// The page frame behind an address of this process, if one is mapped: `/proc/self/pagemap`.
pub(crate) fn frame(address: usize) -> Result<Option<u64>> {
    let entry = entry("/proc/self/pagemap", address as u64 / 4096)?;
    // Bit 63: present. Bits 0 to 54: the frame.
    Ok((entry >> 63 == 1).then_some(entry & ((1 << 55) - 1)))
}

/// Whether the page tables have something else than a page at an address, as a swap entry is, or the mark of failed memory.
pub(crate) fn is_entry(address: usize) -> Result<bool> {
    // Bit 62: swapped.
    Ok(entry("/proc/self/pagemap", address as u64 / 4096)? >> 62 == 1)
}

/// The flags of a page frame.
pub(crate) fn flags(frame: u64) -> Result<u64> {
    entry("/proc/kpageflags", frame)
}

fn entry(table: &str, index: u64) -> Result<u64> {
    let file = File::open(table).with_context(|| format!("cannot open {table}"))?;
    let mut bytes = [0; 8];
    pread(&file, &mut bytes, index * 8)
        .with_context(|| format!("cannot read entry {index} of {table}"))?;
    Ok(u64::from_ne_bytes(bytes))
}

/// `HardwareCorrupted` of `/proc/meminfo`, in KiB.
pub(crate) fn hardware_corrupted() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("HardwareCorrupted:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// The flags of the mapping around an address, as `VmFlags` in `/proc/self/smaps` has them.
pub(crate) fn mapping_flags(address: usize) -> Result<String> {
    mapping(address, "VmFlags:")
}

/// Bytes of shared memory in transparent huge pages that are mapped as such, in the mapping around an address.
pub(crate) fn huge_shared(address: usize) -> Result<usize> {
    let line = mapping(address, "ShmemPmdMapped:")?;
    let kib = line.split(' ').next().unwrap_or_default();
    let kib: usize = kib.parse().context("a line of smaps without a number")?;
    Ok(kib << 10)
}

/// What `/proc/self/smaps` has under a name for the mapping around an address.
fn mapping(address: usize, name: &str) -> Result<String> {
    let text = fs::read_to_string("/proc/self/smaps").context("cannot read /proc/self/smaps")?;
    let mut inside = false;
    for line in text.lines() {
        let range = line.split(' ').next().and_then(|word| {
            let (from, to) = word.split_once('-')?;
            let parse = |text| usize::from_str_radix(text, 16).ok();
            Some(parse(from)?..parse(to)?)
        });
        if let Some(range) = range {
            inside = range.contains(&address);
        } else if let (true, Some(rest)) = (inside, line.strip_prefix(name)) {
            return Ok(rest.trim().to_owned());
        }
    }
    anyhow::bail!("nothing is mapped at {address:#x}")
}

/// A pool of huge pages.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    directory: PathBuf,
}

impl Pool {
    /// The 2 MiB pages.
    pub(crate) fn two_mib() -> Self {
        Self {
            directory: "/sys/kernel/mm/hugepages/hugepages-2048kB".into(),
        }
    }

    /// The 1 GiB pages.
    pub(crate) fn one_gib() -> Self {
        Self {
            directory: "/sys/kernel/mm/hugepages/hugepages-1048576kB".into(),
        }
    }

    /// Whether this kernel and processor have such pages.
    pub(crate) fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// Pages in the pool.
    pub(crate) fn total(&self) -> u64 {
        self.read("nr_hugepages")
    }

    /// Pages in it that nobody uses.
    pub(crate) fn free(&self) -> u64 {
        self.read("free_hugepages")
    }

    /// Asks for another size; see what came of it with [`Pool::total`].
    pub(crate) fn resize(&self, pages: u64) {
        let _ = fs::write(self.directory.join("nr_hugepages"), pages.to_string());
    }

    fn read(&self, file: &str) -> u64 {
        fs::read_to_string(self.directory.join(file))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    }
}
