//! userfaultfd, as far as a mend uses it. The numbers are those of the kernel's `include/uapi/linux/userfaultfd.h`; the crates that wrap it lack UFFDIO_POISON.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const UFFD_API: u64 = 0xaa;
const UFFD_USER_MODE_ONLY: i32 = 1;
const REGISTER_MODE_MISSING: u64 = 1 << 0;
const REGISTER_MODE_MINOR: u64 = 1 << 2;
const FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
const FEATURE_MISSING_SHMEM: u64 = 1 << 5;
const FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
const FEATURE_MINOR_SHMEM: u64 = 1 << 10;
const FEATURE_POISON: u64 = 1 << 14;
const FEATURES: u64 = FEATURE_MISSING_HUGETLBFS
    | FEATURE_MISSING_SHMEM
    | FEATURE_MINOR_HUGETLBFS
    | FEATURE_MINOR_SHMEM
    | FEATURE_POISON;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `uffdio_continue`, `uffdio_zeropage` and `uffdio_poison` have the same form.
#[repr(C)]
struct Fill {
    start: u64,
    len: u64,
    mode: u64,
    done: i64,
}

/// `_IOWR(0xaa, number, T)`.
const fn request<T>(number: u64) -> u64 {
    (3 << 30) | ((size_of::<T>() as u64) << 16) | (UFFD_API << 8) | number
}

const UFFDIO_API: u64 = request::<Api>(0x3f);
const UFFDIO_REGISTER: u64 = request::<Register>(0x00);
const UFFDIO_CONTINUE: u64 = request::<Fill>(0x07);
pub(crate) const UFFDIO_POISON: u64 = request::<Fill>(0x08);
const _: () = assert!(UFFDIO_API == 0xc018_aa3f && UFFDIO_REGISTER == 0xc020_aa00);
const UFFDIO_ZEROPAGE: u64 = request::<Fill>(0x04);
const _: () = assert!(UFFDIO_ZEROPAGE == 0xc020_aa04);
const _: () = assert!(UFFDIO_CONTINUE == 0xc020_aa07 && UFFDIO_POISON == 0xc020_aa08);

/// An open descriptor.
pub(crate) struct Userfault {
    file: OwnedFd,
}

impl Userfault {
    /// One that sees faults from user mode only, which needs no privilege.
    pub(crate) fn user_mode() -> io::Result<Self> {
        // SAFETY: the call takes flags and gives a new descriptor.
        let file = unsafe {
            libc::syscall(
                libc::SYS_userfaultfd,
                libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY,
            )
        };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        let userfault = Self {
            // SAFETY: the descriptor was just made for us.
            file: unsafe { OwnedFd::from_raw_fd(file as i32) },
        };
        let mut api = Api {
            api: UFFD_API,
            features: FEATURES,
            ioctls: 0,
        };
        userfault.ioctl(UFFDIO_API, &mut api)?;
        Ok(userfault)
    }

    /// Registers a range of shared memory for missing and minor faults.
    pub(crate) fn register(&self, range: Range<usize>) -> io::Result<()> {
        self.register_for(REGISTER_MODE_MISSING | REGISTER_MODE_MINOR, range)
    }

    /// Registers a range for missing faults, which is all that anonymous memory has.
    pub(crate) fn register_missing(&self, range: Range<usize>) -> io::Result<()> {
        self.register_for(REGISTER_MODE_MISSING, range)
    }

    fn register_for(&self, mode: u64, range: Range<usize>) -> io::Result<()> {
        let mut register = Register {
            start: range.start as u64,
            len: range.len() as u64,
            mode,
            ioctls: 0,
        };
        self.ioctl(UFFDIO_REGISTER, &mut register)
    }

    /// Maps what the file holds there.
    pub(crate) fn continue_(&self, range: Range<usize>) -> io::Result<()> {
        self.fill(UFFDIO_CONTINUE, range)
    }

    /// Makes every touch there fail.
    pub(crate) fn poison(&self, range: Range<usize>) -> io::Result<()> {
        self.fill(UFFDIO_POISON, range)
    }

    /// Maps zeros there.
    pub(crate) fn zero(&self, range: Range<usize>) -> io::Result<()> {
        self.fill(UFFDIO_ZEROPAGE, range)
    }

    fn fill(&self, request: u64, range: Range<usize>) -> io::Result<()> {
        let mut start = range.start;
        while start < range.end {
            let mut fill = Fill {
                start: start as u64,
                len: (range.end - start) as u64,
                mode: 0,
                done: 0,
            };
            match self.ioctl(request, &mut fill) {
                Ok(()) => return Ok(()),
                // The kernel stopped on the way and says how far it came.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && fill.done > 0 => {
                    start += fill.done as usize;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn ioctl<T>(&self, request: u64, argument: &mut T) -> io::Result<()> {
        // SAFETY: the request's number holds the size of T, and the kernel touches nothing else but the mappings of scenarios.
        match unsafe { libc::ioctl(self.file.as_raw_fd(), request, std::ptr::from_mut(argument)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
