//! What the kernel says about the guest's mappings: the page sizes that are really there.

use std::fs;

use pagemend_core::address::PageSize;
use pagemend_core::map::Backing;

use crate::guest::{BASE, Guest};

#[derive(Debug, Default)]
pub(crate) struct Vma {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// Bytes in a page.
    pub(crate) page: u64,
    /// Bytes of shared memory in mappings of 2 MiB.
    pub(crate) huge_shmem: u64,
    pub(crate) flags: Vec<String>,
}

impl Vma {
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|name| name == flag)
    }
}

/// The mappings that share bytes with `start..end`.
pub(crate) fn mappings(start: u64, end: u64) -> Vec<Vma> {
    let mut found = vec![];
    for line in fs::read_to_string("/proc/self/smaps").unwrap().lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let range = first.split_once('-').and_then(|(from, to)| {
            Some((
                u64::from_str_radix(from, 16).ok()?,
                u64::from_str_radix(to, 16).ok()?,
            ))
        });
        if let Some((start, end)) = range {
            found.push(Vma {
                start,
                end,
                ..Vma::default()
            });
        }
        let Some(vma) = found.last_mut() else {
            continue;
        };
        let mut bytes = || words.next().unwrap().parse::<u64>().unwrap() << 10;
        match first {
            "KernelPageSize:" => vma.page = bytes(),
            "ShmemPmdMapped:" => vma.huge_shmem = bytes(),
            "VmFlags:" => vma.flags = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    found.retain(|vma| vma.start < end && start < vma.end);
    found
}

/// Checks that the segments are mapped with the pages that the map says, and gives the bytes on
/// hugetlb pages, on transparent huge pages and on 4 KiB pages.
pub(crate) fn check_page_sizes(guest: &Guest) -> [u64; 3] {
    let mut bytes = [0; 3];
    let base = guest.memory.hva().get();
    let segments = guest.pagemend.segments();
    for vma in mappings(base, base + guest.memory.len()) {
        // Segments that lie side by side in one file are one mapping, whatever their pages.
        let mut transparent = 0;
        for segment in &segments {
            let start = base + segment.gpa.start().get() - BASE;
            let end = vma.end.min(start + segment.gpa.len());
            let Some(len) = end.checked_sub(vma.start.max(start)) else {
                continue;
            };
            let page = segment.page_size.bytes();
            let (kind, pages) = match (segment.backing, segment.page_size) {
                (Backing::Hugetlb, _) => (0, page),
                (_, PageSize::SIZE_4K) => (2, page),
                _ => (1, PageSize::SIZE_4K.bytes()),
            };
            assert!(len == 0 || vma.page == pages, "{segment:?} is in {vma:?}");
            transparent += if kind == 1 { len } else { 0 };
            bytes[kind] += len;
        }
        // The kernel may make more of them by itself.
        assert!(vma.huge_shmem >= transparent, "{vma:?}");
    }
    bytes
}
