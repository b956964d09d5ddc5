//! A stretch of this process's address space that is ours: reserved, mapped piece by piece, and
//! given back when dropped.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::{Duration, Instant};

use pagemend_core::address::{Hva, HvaRange, PageSize};

/// What to map at an offset of a [`Mapping`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileView {
    /// Bytes from the start of the mapping.
    pub(crate) at: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// Bytes from the start of the file.
    pub(crate) offset: u64,
}

/// A range of addresses that nobody else uses.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: *mut u8,
    len: usize,
}

// SAFETY: the mapping is plain memory of the process, not bound to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Reserves `len` bytes at a multiple of `alignment`, without memory behind them.
    pub(crate) fn reserve(len: u64, alignment: PageSize) -> io::Result<Self> {
        let (len, alignment) = (len as usize, alignment.bytes() as usize);
        let room = len
            .checked_add(alignment)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a fresh anonymous reservation at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                room,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = start as usize;
        let base = start.next_multiple_of(alignment);
        for (from, to) in [(start, base), (base + len, start + room)] {
            if from < to {
                // SAFETY: the unaligned ends of the reservation made above; nobody knows them.
                unsafe { libc::munmap(from as *mut _, to - from) };
            }
        }
        Ok(Self {
            base: base as *mut u8,
            len,
        })
    }

    /// Maps part of a file, shared and without a reservation, readable and writable.
    pub(crate) fn map(&self, file: impl AsFd, view: FileView) -> io::Result<()> {
        let at = self.map_with(libc::PROT_NONE, libc::MAP_SHARED, file, view)?;
        self.allow(at, view.len)
    }

    /// The same, private.
    pub(crate) fn map_private(&self, file: impl AsFd, view: FileView) -> io::Result<()> {
        let at = self.map_with(libc::PROT_NONE, libc::MAP_PRIVATE, file, view)?;
        self.allow(at, view.len)
    }

    /// Maps part of a file, shared and without a reservation, for settings that come before memory:
    /// it cannot be accessed.
    pub(crate) fn map_closed(&self, file: impl AsFd, view: FileView) -> io::Result<()> {
        self.map_with(libc::PROT_NONE, libc::MAP_SHARED, file, view)
            .map(drop)
    }

    /// As [`map`](Self::map), for what the file has pages for that are not to be marked: without a
    /// change of access, for which the kernel interrupts every processor that runs a thread of the
    /// process if the pages are huge.
    pub(crate) fn map_present(&self, file: impl AsFd, view: FileView) -> io::Result<()> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        self.map_with(access, libc::MAP_SHARED, file, view)
            .map(drop)
    }

    fn map_with(
        &self,
        access: libc::c_int,
        sharing: libc::c_int,
        file: impl AsFd,
        view: FileView,
    ) -> io::Result<*mut libc::c_void> {
        assert!(view.at + view.len <= self.len as u64);
        let at = (self.base as u64 + view.at) as *mut libc::c_void;
        // SAFETY: MAP_FIXED inside our own range, which has no Rust references into it.
        let mapped = unsafe {
            libc::mmap(
                at,
                view.len as usize,
                access,
                sharing | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_fd().as_raw_fd(),
                view.offset as libc::off_t,
            )
        };
        match mapped {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(at),
        }
    }

    /// Lets what was mapped at `at` be accessed. Only then: after mlockall(MCL_FUTURE), mmap gets
    /// pages for all that can be accessed, and pages that are there cannot be marked.
    fn allow(&self, at: *mut libc::c_void, len: u64) -> io::Result<()> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the range that was mapped just now.
        match unsafe { libc::mprotect(at, len as usize, access) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The first address.
    pub(crate) fn hva(&self) -> Hva {
        Hva::new(self.base as u64)
    }

    /// The byte at `offset`.
    pub(crate) fn at(&self, offset: u64) -> *mut u8 {
        assert!(offset <= self.len as u64);
        self.base.wrapping_add(offset as usize)
    }

    /// Bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Moves the whole range, with all that is mapped and marked in it, over `target`, in the
    /// place of what is mapped there, at once for every thread.
    ///
    /// # Safety
    ///
    /// `target` must be `self.len()` bytes of memory that nobody has references into.
    pub(crate) unsafe fn move_over(self, target: Hva) -> io::Result<()> {
        // SAFETY: the source is ours; the caller vouches for the target.
        let moved = unsafe {
            libc::mremap(
                self.base.cast(),
                self.len,
                self.len,
                libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
                target.get() as *mut libc::c_void,
            )
        };
        if moved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // The old addresses may already be somebody else's.
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and whoever got a pointer into it got it from this value.
        unsafe { libc::munmap(self.base.cast(), self.len) };
    }
}

/// `madvise` on `len` bytes at `hva`, repeated where the kernel asks for it.
///
/// # Safety
///
/// The advice must not take away bytes that somebody has references to.
pub(crate) unsafe fn advise(hva: Hva, len: u64, advice: libc::c_int) -> io::Result<()> {
    loop {
        // SAFETY: the caller vouches for the advice.
        match unsafe { advise_once(hva, len, advice) } {
            Err(error) if may_be_repeated(&error) => {}
            done => return done,
        }
    }
}

/// For how long the kernel is asked for a huge page again. It refuses where somebody else holds one of
/// the pages: for a moment, as a thread does at a fault, which may be long without a processor to
/// run on; or for as long as I/O takes that has it pinned.
const COLLAPSE_LIMIT: Duration = Duration::from_millis(10);

/// Makes `page` one transparent huge page. Where it is one, or its file has one there, that is all.
pub(crate) fn collapse(page: HvaRange) -> io::Result<()> {
    let started = Instant::now();
    loop {
        // SAFETY: the advice changes no byte.
        match unsafe { advise_once(page.start(), page.len(), libc::MADV_COLLAPSE) } {
            Err(error) if may_be_repeated(&error) && started.elapsed() < COLLAPSE_LIMIT => {}
            done => return done,
        }
    }
}

fn may_be_repeated(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

/// # Safety
///
/// As for [`advise`].
unsafe fn advise_once(hva: Hva, len: u64, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: the caller vouches for the advice; the kernel checks the addresses.
    match unsafe { libc::madvise(hva.get() as *mut _, len as usize, advice) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether there is memory for the frame at `range`, here or in its file.
pub(crate) fn resident(range: HvaRange) -> io::Result<bool> {
    let mut residency = 0u8;
    // SAFETY: one byte for one frame.
    let done = unsafe {
        libc::mincore(
            range.start().get() as *mut _,
            PageSize::SIZE_4K.bytes() as usize,
            &raw mut residency,
        )
    };
    match done {
        0 => Ok(residency & 1 != 0),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a range with poison marks a mapping of its own, because the kernel drops the marks when it
/// collapses what is around them into a huge page, and that takes one mapping. By a flag that means
/// nothing for memory and that nobody else here sets.
pub(crate) fn set_apart(range: HvaRange) -> io::Result<()> {
    // SAFETY: the advice changes no byte.
    unsafe { advise(range.start(), range.len(), libc::MADV_RANDOM) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reservation_is_aligned_and_given_back() {
        let mapping = Mapping::reserve(4 << 20, PageSize::SIZE_1G).unwrap();
        assert!(mapping.hva().is_aligned(PageSize::SIZE_1G));
        let hva = mapping.hva();
        drop(mapping);
        // SAFETY: the advice changes nothing.
        let gone = unsafe { advise(hva, 4096, libc::MADV_NORMAL) }.unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ENOMEM));
    }

    #[test]
    fn what_is_moved_over_a_target_is_what_is_read_there() {
        let file = rustix::fs::memfd_create("moved", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, 8192).unwrap();
        rustix::io::pwrite(&file, b"here", 4096).unwrap();
        let target = Mapping::reserve(4096, PageSize::SIZE_4K).unwrap();
        let source = Mapping::reserve(4096, PageSize::SIZE_4K).unwrap();
        let view = FileView {
            at: 0,
            len: 4096,
            offset: 4096,
        };
        source.map(&file, view).unwrap();
        // SAFETY: the target was reserved for this and nobody refers to it.
        unsafe { source.move_over(target.hva()) }.unwrap();
        // SAFETY: four bytes that the move has put there.
        let bytes = unsafe { std::slice::from_raw_parts(target.at(0), 4) };
        assert_eq!(bytes, b"here");
    }
}
