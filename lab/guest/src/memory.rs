//! Mappings and the files behind them, for scenarios only: they are poisoned, moved and replaced at will, so no Rust reference is ever made into one.

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, Mode, OFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, MremapFlags, ProtFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

pub(crate) const KIB_4: usize = 4 << 10;
pub(crate) const MIB_2: usize = 2 << 20;
pub(crate) const GIB_1: usize = 1 << 30;

/// A mapping of this process, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: usize,
    len: usize,
}

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

impl Mapping {
    /// A file from its start, `MAP_SHARED`, at an address aligned as its page size asks.
    pub(crate) fn shared(file: impl AsFd, len: usize, align: usize) -> Result<Self> {
        Self::file(file, len, align, MapFlags::SHARED)
    }

    /// A file from its start, with these flags.
    pub(crate) fn file(file: impl AsFd, len: usize, align: usize, flags: MapFlags) -> Result<Self> {
        let base = reserve(len, align)?;
        // SAFETY: replaces only the reservation just made, which nothing points into.
        unsafe {
            rustix::mm::mmap(
                base as *mut _,
                len,
                READ_WRITE,
                flags | MapFlags::FIXED,
                file,
                0,
            )
        }
        .context("cannot map the file")?;
        Ok(Self { base, len })
    }

    /// Anonymous private memory.
    pub(crate) fn anonymous(len: usize, align: usize, flags: MapFlags) -> Result<Self> {
        let base = reserve(len, align)?;
        let flags = flags | MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: replaces only the reservation just made, which nothing points into.
        unsafe { rustix::mm::mmap_anonymous(base as *mut _, len, READ_WRITE, flags) }
            .context("cannot map anonymous memory")?;
        Ok(Self { base, len })
    }

    /// Its address.
    pub(crate) fn base(&self) -> usize {
        self.base
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// `madvise` on all of it.
    pub(crate) fn advise(&self, advice: i32) -> io::Result<()> {
        advise(self.base, self.len, advice)
    }

    /// Moves all of it over what is at `target`, in one system call.
    pub(crate) fn move_over(self, target: usize) -> io::Result<()> {
        let flags = MremapFlags::MAYMOVE;
        // SAFETY: scenarios hold no references into either range.
        unsafe {
            rustix::mm::mremap_fixed(
                self.base as *mut _,
                self.len,
                self.len,
                flags,
                target as *mut _,
            )
        }?;
        // What was here is at the target now, and belongs to the mapping there.
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this range is this mapping's alone, and scenarios hold no references into it.
        let _ = unsafe { rustix::mm::munmap(self.base as *mut _, self.len) };
    }
}

/// `madvise` with an advice by number, since the newest have no other name.
pub(crate) fn advise(address: usize, len: usize, advice: i32) -> io::Result<()> {
    // SAFETY: only ever called on mappings of scenarios, whose contents Rust knows nothing of.
    match unsafe { libc::madvise(address as *mut _, len, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the kernel read 4 KiB of this process's memory, which is an error where they are lost: neither a signal nor a line in its log.
pub(crate) fn peek(address: usize) -> io::Result<()> {
    let mut buffer = [0u8; KIB_4];
    let here = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: KIB_4,
    };
    let there = libc::iovec {
        iov_base: address as *mut _,
        iov_len: KIB_4,
    };
    // SAFETY: writes into the buffer only, and reads from a mapping of the scenario.
    whole(unsafe {
        libc::process_vm_readv(libc::getpid(), &raw const here, 1, &raw const there, 1, 0)
    })
}

/// What came of a call that is to read or write 4 KiB.
pub(crate) fn whole(bytes: isize) -> io::Result<()> {
    match bytes {
        -1 => Err(io::Error::last_os_error()),
        _ if bytes as usize == KIB_4 => Ok(()),
        _ => Err(io::Error::other(format!("{bytes} bytes only"))),
    }
}

/// An aligned stretch of address space without access.
fn reserve(len: usize, align: usize) -> Result<usize> {
    let whole = len + align;
    // SAFETY: a mapping where the kernel chooses touches nothing that exists.
    let start = unsafe {
        rustix::mm::mmap_anonymous(
            std::ptr::null_mut(),
            whole,
            ProtFlags::empty(),
            MapFlags::PRIVATE | MapFlags::NORESERVE,
        )
    }
    .context("cannot reserve address space")? as usize;
    let base = start.next_multiple_of(align);
    for (from, to) in [(start, base), (base + len, start + whole)] {
        if from < to {
            // SAFETY: these are the two ends of the reservation just made.
            unsafe { rustix::mm::munmap(from as *mut _, to - from) }
                .context("cannot trim a reservation")?;
        }
    }
    Ok(base)
}

/// A memfd of ordinary pages.
pub(crate) fn shmem(len: usize) -> Result<OwnedFd> {
    sized(
        memfd_create("lab", MemfdFlags::CLOEXEC).context("cannot make a memfd")?,
        len,
    )
}

/// A memfd of 2 MiB pages.
pub(crate) fn hugetlb_2m(len: usize) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    sized(
        memfd_create("lab", flags).context("cannot make a memfd of 2 MiB pages")?,
        len,
    )
}

/// A memfd of 1 GiB pages.
pub(crate) fn hugetlb_1g(len: usize) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_1GB;
    sized(
        memfd_create("lab", flags).context("cannot make a memfd of 1 GiB pages")?,
        len,
    )
}

/// A file on the hugetlbfs mount.
pub(crate) fn hugetlbfs_file(len: usize) -> Result<OwnedFd> {
    let file = rustix::fs::open(
        "/huge-2m",
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .context("cannot make a file on hugetlbfs")?;
    sized(file, len)
}

/// A file without a name on a tmpfs of its own that nobody else can see, with huge pages from the first touch.
pub(crate) fn shmem_huge(len: usize) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)
        .context("cannot open tmpfs for configuration")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "huge", "always")
        .context("tmpfs refuses huge=always")?;
    rustix::mount::fsconfig_create(context.as_fd()).context("cannot create the tmpfs")?;
    let mount = rustix::mount::fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .context("cannot mount the tmpfs")?;
    let file = rustix::fs::openat(
        &mount,
        ".",
        OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .context("cannot make a file on the tmpfs")?;
    sized(file, len)
}

fn sized(file: OwnedFd, len: usize) -> Result<OwnedFd> {
    ftruncate(&file, len as u64).context("cannot size a memory file")?;
    Ok(file)
}
