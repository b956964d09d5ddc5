//! Guest memory for those who have none yet: the command line, tests, and VMMs that like to be
//! given it.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use pagemend_core::address::{Hva, PageSize};
use rustix::fs::{MemfdFlags, Mode, OFlags};

use crate::files::{huge_tmpfs, hugetlb_memfd};
use crate::guard::try_copy;
use crate::mapping::{Mapping, advise};
use crate::probe::Pool;

/// What guest memory is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MemoryKind {
    /// A shared memfd on the hugetlb pool of a size: what can be mended.
    Hugetlb(PageSize),
    /// A file in a hugetlbfs directory, shared.
    HugetlbFile(PathBuf),
    /// Private anonymous memory on the hugetlb pool of a size: cannot be salvaged.
    HugetlbPrivate(PageSize),
    /// A shared memfd with 4 KiB pages.
    Shmem,
    /// Shared memory with transparent huge pages, wherever the machine has them.
    ShmemThp,
    /// Private anonymous memory with 4 KiB pages.
    Anonymous,
    /// Private anonymous memory with transparent huge pages, wherever the machine has them.
    AnonymousThp,
}

impl MemoryKind {
    /// The page size that is asked for.
    pub fn page_size(&self) -> PageSize {
        match self {
            Self::Hugetlb(size) | Self::HugetlbPrivate(size) => *size,
            Self::HugetlbFile(directory) => file_page_size(directory).unwrap_or(PageSize::SIZE_2M),
            Self::ShmemThp | Self::AnonymousThp => PageSize::SIZE_2M,
            Self::Shmem | Self::Anonymous => PageSize::SIZE_4K,
        }
    }
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hugetlb(size) => write!(f, "hugetlb {size}, shared memfd"),
            Self::HugetlbFile(path) => write!(f, "hugetlbfs file in {}", path.display()),
            Self::HugetlbPrivate(size) => write!(f, "hugetlb {size}, private"),
            Self::Shmem => f.write_str("shared memory, 4 KiB pages"),
            Self::ShmemThp => f.write_str("shared memory, transparent huge pages"),
            Self::Anonymous => f.write_str("anonymous memory, 4 KiB pages"),
            Self::AnonymousThp => f.write_str("anonymous memory, transparent huge pages"),
        }
    }
}

/// Why there is no such memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The size is no multiple of the page size, or nothing.
    #[error("{len} bytes of guest memory are not a positive multiple of {page_size}")]
    Size {
        /// Bytes asked for.
        len: u64,
        /// The page size.
        page_size: PageSize,
    },
    /// The kernel has no pool of that page size.
    #[error("this kernel has no huge pages of {page_size}")]
    NoPool {
        /// The page size.
        page_size: PageSize,
    },
    /// The pool has too few free pages.
    #[error(
        "{needed} huge pages of {page_size} are needed and {available} are free: \
         echo {total} > /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages",
        total = .total + .needed - .available, kib = .page_size.bytes() >> 10
    )]
    PoolTooSmall {
        /// The page size.
        page_size: PageSize,
        /// Pages needed.
        needed: u64,
        /// Pages that can be had.
        available: u64,
        /// Pages in the pool, used ones included.
        total: u64,
    },
    /// The machine has less memory than that.
    #[error("{len} bytes of guest memory were asked for and the machine has {available} to give")]
    TooLarge {
        /// Bytes asked for.
        len: u64,
        /// `MemAvailable`, in bytes.
        available: u64,
    },
    /// The kernel refused.
    #[error("{call}")]
    Call {
        /// What was done.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Guest memory, unmapped when dropped.
#[derive(Debug)]
pub struct GuestMemory {
    mapping: Mapping,
    file: Option<OwnedFd>,
    kind: MemoryKind,
}

// SAFETY: it gives out nothing but a raw pointer and a descriptor.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Gets `len` bytes, not yet touched.
    pub fn new(kind: MemoryKind, len: u64) -> Result<Self, MemoryError> {
        let page_size = kind.page_size();
        if len == 0 || !len.is_multiple_of(page_size.bytes()) {
            return Err(MemoryError::Size { len, page_size });
        }
        check_room(&kind, len)?;
        let call = |call| move |source| MemoryError::Call { call, source };
        let file = file_for(&kind).map_err(call("opening a file for guest memory"))?;
        if let Some(file) = &file {
            let sized = rustix::fs::ftruncate(file, len);
            sized.map_err(|error| call("sizing the file for guest memory")(error.into()))?;
        }
        // Aligned for the largest pages, so that every kind can be mapped with those it has.
        let alignment = page_size.max(PageSize::SIZE_2M);
        let mapping = Mapping::reserve(len, alignment).map_err(call("reserving addresses"))?;
        let memory = Self {
            mapping,
            file,
            kind,
        };
        memory.map().map_err(call("mapping guest memory"))?;
        Ok(memory)
    }

    fn map(&self) -> io::Result<()> {
        let (flags, fd) = match (&self.kind, &self.file) {
            (_, Some(file)) => (libc::MAP_SHARED, file.as_raw_fd()),
            (MemoryKind::HugetlbPrivate(size), None) => {
                let size = libc::c_int::from(size.shift()) << libc::MAP_HUGE_SHIFT;
                (
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | size,
                    -1,
                )
            }
            (_, None) => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: MAP_FIXED over our own reservation.
        let mapped = unsafe {
            libc::mmap(
                self.as_ptr().cast(),
                self.len() as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                flags | libc::MAP_FIXED,
                fd,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let huge = match self.kind {
            MemoryKind::ShmemThp | MemoryKind::AnonymousThp => libc::MADV_HUGEPAGE,
            MemoryKind::Shmem | MemoryKind::Anonymous => libc::MADV_NOHUGEPAGE,
            _ => return Ok(()),
        };
        // SAFETY: the advice changes no byte.
        unsafe { advise(self.hva(), self.len(), huge) }
    }

    /// The first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.at(0)
    }

    /// All of it as words, for those who use it as a guest would: by plain loads and stores, which
    /// wait where a page has failed until it is mended, and raise SIGBUS at a lost frame.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped, readable and writable for as long as `self` is there, aligned for pages,
        // and a whole number of words, for which any bytes will do. Whoever else changes them does
        // so behind the atomics' interior mutability; what is mapped in its place is memory too.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), self.len() as usize / 8) }
    }

    /// Copies `len` bytes from one offset to another as a guest would: waiting where a page has failed
    /// until it is mended.
    ///
    /// # Errors
    ///
    /// A range outside of the memory, and one that meets a lost frame.
    pub fn copy_within(&self, from: u64, to: u64, len: u64) -> io::Result<()> {
        let inside = |at: u64| at.checked_add(len).is_some_and(|end| end <= self.len());
        if !inside(from) || !inside(to) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let [from, to] = [from, to].map(|at| self.mapping.at(at));
        // SAFETY: mapped for as long as `self` is there, and of Rust references there are only those
        // to atomics, behind whose interior mutability the bytes may change.
        unsafe { try_copy(to, from, len as usize) }.map_err(io::Error::other)
    }

    /// The address of the first byte.
    pub fn hva(&self) -> Hva {
        self.mapping.hva()
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.mapping.len()
    }

    /// Whether there is none; there always is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it is made of.
    pub fn kind(&self) -> &MemoryKind {
        &self.kind
    }

    /// The file behind it, where there is one.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(|file| file.as_fd())
    }
}

fn file_for(kind: &MemoryKind) -> io::Result<Option<OwnedFd>> {
    Ok(Some(match kind {
        MemoryKind::Hugetlb(size) => hugetlb_memfd(*size)?,
        MemoryKind::HugetlbFile(directory) => {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?
        }
        MemoryKind::Shmem => rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC)?,
        MemoryKind::ShmemThp => match huge_tmpfs() {
            Ok(file) => file,
            Err(_) => rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC)?,
        },
        MemoryKind::HugetlbPrivate(_) | MemoryKind::Anonymous | MemoryKind::AnonymousThp => {
            return Ok(None);
        }
    }))
}

fn file_page_size(directory: &Path) -> Option<PageSize> {
    let block = rustix::fs::statfs(directory).ok()?.f_bsize;
    PageSize::from_bytes(u64::try_from(block).ok()?)
}

/// Says what is missing before the kernel says ENOMEM, or ends somebody for lack of memory.
fn check_room(kind: &MemoryKind, len: u64) -> Result<(), MemoryError> {
    let page_size = kind.page_size();
    let pooled = matches!(
        kind,
        MemoryKind::Hugetlb(_) | MemoryKind::HugetlbFile(_) | MemoryKind::HugetlbPrivate(_)
    );
    if pooled {
        let pool = Pool::of(page_size).ok_or(MemoryError::NoPool { page_size })?;
        let needed = len / page_size.bytes();
        return match pool.spare() {
            available if available < needed => Err(MemoryError::PoolTooSmall {
                page_size,
                needed,
                available,
                total: pool.total,
            }),
            _ => Ok(()),
        };
    }
    match available_memory() {
        Some(available) if available < len => Err(MemoryError::TooLarge { len, available }),
        _ => Ok(()),
    }
}

/// `MemAvailable`, in bytes.
pub fn available_memory() -> Option<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[test]
    fn a_copy_is_of_what_was_asked_for_and_stays_inside() {
        let memory = GuestMemory::new(MemoryKind::Shmem, 2 << 12).unwrap();
        for (number, word) in memory.words().iter().enumerate() {
            word.store(number as u64, Relaxed);
        }
        memory.copy_within(8, 4096, 16).unwrap();
        let words: Vec<u64> = memory.words()[510..516]
            .iter()
            .map(|word| word.load(Relaxed))
            .collect();
        assert_eq!(words, [510, 511, 1, 2, 514, 515]);
        for (from, to, len) in [(0, 4096, 4097), (4096, 0, 4097), (8, 0, u64::MAX)] {
            assert!(memory.copy_within(from, to, len).is_err(), "{len}");
        }
    }

    #[test]
    fn its_words_are_its_bytes() {
        let memory = GuestMemory::new(MemoryKind::Shmem, 2 << 12).unwrap();
        assert_eq!(memory.words().len(), 1024);
        memory.words()[1023].store(0x0102_0304_0506_0708, Relaxed);
        let mut bytes = [0; 8];
        rustix::io::pread(memory.file().unwrap(), &mut bytes, 1023 * 8).unwrap();
        assert_eq!(u64::from_ne_bytes(bytes), 0x0102_0304_0506_0708);
    }
}
