//! Whether staging memory can be made, and made of huge pages, by making some and letting it go.

use std::ffi::c_void;
use std::ptr::null_mut;

use pagemend_core::address::PageSize;
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use serde::Serialize;

use super::thp::Thp;
use super::trial::{Refused, Trial, checked, refused};
use crate::abi::{MADV_COLLAPSE, MFD_MF_KEEP_UE_MAPPED};
use crate::files::huge_tmpfs;

/// A transparent huge page of arm64 with 64 KiB granules has 512 MiB: too much to fill for a probe.
const LARGEST_COLLAPSE: u64 = 32 << 20;

/// What came of making memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// memfd_create(2): the memory that every mend needs.
    pub memfd: Trial,
    /// memfd_create(2) with MFD_HUGETLB.
    pub memfd_hugetlb: Trial,
    /// memfd_create(2) with MFD_HUGETLB and MFD_MF_KEEP_UE_MAPPED.
    pub keep_ue_mapped: Trial,
    /// madvise(2) MADV_COLLAPSE of one huge page of a memfd; `None` without transparent huge pages
    /// of a size that a probe may fill.
    pub collapse: Option<Trial>,
    /// A tmpfs with `huge=always` that is mounted nowhere.
    pub huge_tmpfs: HugeTmpfs,
}

/// What came of making a tmpfs with `huge=always` that is mounted nowhere, and a file in it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HugeTmpfs {
    /// Whether the file could be made.
    pub made: Trial,
    /// `st_blksize` of the file: a huge page's size where the kernel will use huge pages for it.
    pub block_size: Option<u64>,
}

impl Memory {
    pub(super) fn try_all(thp: &Thp) -> Self {
        let collapsible = thp.size.filter(|size| size.bytes() <= LARGEST_COLLAPSE);
        let huge_tmpfs = huge_tmpfs_block_size();
        Self {
            memfd: (&memfd(MemfdFlags::empty())).into(),
            memfd_hugetlb: (&memfd(MemfdFlags::HUGETLB)).into(),
            keep_ue_mapped: (&memfd(
                MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(MFD_MF_KEEP_UE_MAPPED),
            ))
                .into(),
            collapse: collapsible.map(|size| (&collapse(size)).into()),
            huge_tmpfs: HugeTmpfs {
                made: (&huge_tmpfs).into(),
                block_size: huge_tmpfs.ok(),
            },
        }
    }
}

fn memfd(flags: MemfdFlags) -> Result<OwnedFd, Refused> {
    memfd_create("pagemend-probe", flags | MemfdFlags::CLOEXEC).map_err(refused("memfd_create"))
}

fn huge_tmpfs_block_size() -> Result<u64, Refused> {
    let file = huge_tmpfs()?;
    Ok(fstat(&file).map_err(refused("fstat"))?.st_blksize as u64)
}

/// Addresses of this process that are unmapped when the value goes out of scope.
struct Reserved {
    start: *mut c_void,
    len: usize,
}

impl Reserved {
    fn new(len: usize) -> Result<Self, Refused> {
        // SAFETY: no address is asked for, so no mapping of this process is replaced.
        let start = unsafe {
            mmap_anonymous(
                null_mut(),
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(refused("mmap"))?;
        Ok(Self { start, len })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // SAFETY: the range was reserved by `new`, and no pointer into it outlives this value.
        // Failure could only leave it reserved.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

/// Fills one huge page's worth of a memfd with small pages and has it collapsed.
fn collapse(size: PageSize) -> Result<(), Refused> {
    let len = size.bytes() as usize;
    let file = memfd(MemfdFlags::empty())?;
    ftruncate(&file, size.bytes()).map_err(refused("ftruncate"))?;
    let reserved = Reserved::new(2 * len)?;
    let aligned = reserved.start.map_addr(|start| start.next_multiple_of(len));
    // SAFETY: `aligned..aligned + len` lies in the twice as long reservation, which only this
    // function knows of.
    unsafe {
        mmap(
            aligned,
            len,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::FIXED | MapFlags::POPULATE,
            &file,
            0,
        )
    }
    .map_err(refused("mmap"))?;
    // SAFETY: collapsing changes by which pages the range is mapped, never what it holds.
    checked(unsafe { libc::madvise(aligned, len, MADV_COLLAPSE) })
        .map_err(refused("madvise(MADV_COLLAPSE)"))?;
    Ok(())
}
