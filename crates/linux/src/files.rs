//! The files behind guest memory: the VMM's own, and the ones that new memory comes from.
//!
//! New memory is cut from a few files that live as long as the mender, one for each kind of page,
//! so that a thousand mends cost no more descriptors than one.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagemend_core::address::PageSize;
use pagemend_core::map::{FileId, Source};
use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::probe::{Refused, refused};

/// What new memory is cut from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// The hugetlb pool of a size.
    Hugetlb(PageSize),
    /// Shared memory.
    Shmem,
}

/// All files, each open until the mender ends.
#[derive(Debug)]
pub(crate) struct Files {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    open: Vec<Arc<OwnedFd>>,
    cut: BTreeMap<Kind, Cut>,
}

/// A file that memory is cut from, from its start to its end.
#[derive(Clone, Copy, Debug)]
struct Cut {
    file: FileId,
    next: u64,
}

impl Files {
    /// Opens the file for shared memory at once, because a VMM may be confined later.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let shmem = match huge_tmpfs() {
            Ok(file) => file,
            Err(error) => {
                tracing::debug!(%error, "no tmpfs with huge pages: taking a plain memfd");
                rustix::fs::memfd_create("pagemend", MemfdFlags::CLOEXEC)?
            }
        };
        let cut = Cut {
            file: FileId(0),
            next: 0,
        };
        Ok(Arc::new(Self {
            inner: Mutex::new(Inner {
                open: vec![Arc::new(shmem)],
                cut: BTreeMap::from([(Kind::Shmem, cut)]),
            }),
        }))
    }

    /// Takes in a file of the VMM's.
    pub(crate) fn add(&self, file: OwnedFd) -> FileId {
        let mut inner = self.lock();
        inner.open.push(Arc::new(file));
        FileId(inner.open.len() as u32 - 1)
    }

    /// The descriptor of a file.
    pub(crate) fn get(&self, file: FileId) -> Arc<OwnedFd> {
        self.lock().open[file.0 as usize].clone()
    }

    /// A piece of `len` bytes at a multiple of `len`, without memory in it yet. `len` is a power
    /// of two.
    pub(crate) fn extent(self: &Arc<Self>, kind: Kind, len: u64) -> io::Result<Extent> {
        let source = self.set_aside(kind, len)?;
        Ok(Extent::at(self, source, len))
    }

    /// A place in a file, of `len` bytes at a multiple of `len`, in which nobody else cuts memory.
    pub(crate) fn set_aside(&self, kind: Kind, len: u64) -> io::Result<Source> {
        let mut inner = self.lock();
        let cut = match inner.cut.get(&kind) {
            Some(cut) => *cut,
            None => {
                let Kind::Hugetlb(size) = kind else {
                    unreachable!("shared memory is opened with the table")
                };
                inner.open.push(Arc::new(hugetlb_memfd(size)?));
                let file = FileId(inner.open.len() as u32 - 1);
                Cut { file, next: 0 }
            }
        };
        let offset = cut.next.next_multiple_of(len);
        let next = offset + len;
        rustix::fs::ftruncate(inner.open[cut.file.0 as usize].as_fd(), next)?;
        inner.cut.insert(kind, Cut { next, ..cut });
        Ok(Source {
            file: cut.file,
            offset,
        })
    }

    /// Gives back memory that was cut from a file of ours; of a VMM's file, nothing.
    pub(crate) fn give_back(&self, source: Source, len: u64) {
        let inner = self.lock();
        if inner.cut.values().any(|cut| cut.file == source.file) {
            punch(&inner.open[source.file.0 as usize], source.offset, len);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing that can panic happens while it is held half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A piece of a file that memory is cut from. Its memory is given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Extent {
    files: Arc<Files>,
    source: Source,
    len: u64,
    kept: bool,
}

impl Extent {
    pub(crate) fn source(&self) -> Source {
        self.source
    }

    pub(crate) fn fd(&self) -> Arc<OwnedFd> {
        self.files.get(self.source.file)
    }

    /// Gets memory for `len` bytes at `at`. ENOSPC where a pool is empty.
    pub(crate) fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        let offset = self.source.offset + at;
        Ok(rustix::fs::fallocate(
            self.fd(),
            FallocateFlags::empty(),
            offset,
            len,
        )?)
    }

    /// A piece of a place that was set aside.
    pub(crate) fn at(files: &Arc<Files>, source: Source, len: u64) -> Self {
        Self {
            files: Arc::clone(files),
            source,
            len,
            kept: false,
        }
    }

    /// What a swap has put into the guest before.
    pub(crate) fn in_use(files: &Arc<Files>, source: Source, len: u64) -> Self {
        let mut extent = Self::at(files, source, len);
        extent.kept = true;
        extent
    }

    /// Gives back the memory of `len` bytes at `at`.
    pub(crate) fn give_back(&self, at: u64, len: u64) {
        punch(self.fd(), self.source.offset + at, len);
    }

    /// It is the guest's memory now.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        if !self.kept {
            self.give_back(0, self.len);
        }
    }
}

pub(crate) fn punch(file: impl AsFd, offset: u64, len: u64) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if let Err(error) = rustix::fs::fallocate(file, flags, offset, len) {
        tracing::warn!(%error, len, "memory could not be given back");
    }
}

/// A memfd on the pool of `size`. Opening it takes nothing from the pool.
pub(crate) fn hugetlb_memfd(size: PageSize) -> io::Result<OwnedFd> {
    let shift = u32::from(size.shift()) << libc::MFD_HUGE_SHIFT;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(shift);
    Ok(rustix::fs::memfd_create("pagemend-hugetlb", flags)?)
}

/// A file on a tmpfs of our own that takes a huge page wherever one fits, whatever the machine's
/// settings for shared memory. The mount is in no name space: only the file keeps it alive.
pub(crate) fn huge_tmpfs() -> Result<OwnedFd, Refused> {
    use rustix::mount;
    let config = mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(refused("fsopen"))?;
    mount::fsconfig_set_string(config.as_fd(), "huge", "always")
        // A tmpfs is limited to half of the memory unless told otherwise; guest memory is not.
        .and_then(|()| mount::fsconfig_set_string(config.as_fd(), "size", "0"))
        .and_then(|()| mount::fsconfig_create(config.as_fd()))
        .map_err(refused("fsconfig"))?;
    let root = mount::fsmount(
        config.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .map_err(refused("fsmount"))?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(&root, ".", flags, Mode::RUSR | Mode::WUSR).map_err(refused("openat"))
}
