//! userfaultfd: marking frames as lost, and mapping what a file holds without touching it.
//!
//! Nothing is ever left registered: a range is registered while it is prepared, at an address that
//! nobody uses yet, and the marks stay when the registration goes. So a descriptor that cannot see
//! faults taken inside the kernel serves as well as any, and needs no privilege.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use pagemend_core::address::{FRAME_SIZE, HvaRange};

use crate::abi;
use crate::mapping::{advise, set_apart};

/// How a descriptor was had, which decides what it can see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// `/dev/userfaultfd`: sees faults taken inside the kernel too.
    Device,
    /// userfaultfd(2) with a privilege: sees faults taken inside the kernel too.
    SystemCall,
    /// userfaultfd(2) with `UFFD_USER_MODE_ONLY`: a fault taken inside the kernel, for a system
    /// call or a vCPU, is an error instead.
    UserModeOnly,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "/dev/userfaultfd",
            Self::SystemCall => "userfaultfd(2)",
            Self::UserModeOnly => "userfaultfd(2), without faults taken inside the kernel",
        })
    }
}

/// Why there is no userfaultfd to work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UffdError {
    /// Neither the device nor the system call gave a descriptor.
    #[error("userfaultfd is not available: the kernel lacks it, or seccomp forbids it")]
    Unavailable(#[source] io::Error),
    /// The kernel knows userfaultfd, but not how to mark pages (before Linux 6.6).
    #[error("userfaultfd lacks {missing}: Linux 6.6 or newer has it")]
    TooOld {
        /// The feature.
        missing: &'static str,
    },
}

/// A userfaultfd after its handshake.
#[derive(Debug)]
pub(crate) struct Uffd {
    fd: OwnedFd,
    origin: Origin,
}

impl Uffd {
    /// Opens one: through the device, the system call, or the system call for user mode only.
    pub(crate) fn open() -> Result<Self, UffdError> {
        let (fd, origin) = open_any().map_err(UffdError::Unavailable)?;
        let uffd = Self { fd, origin };
        let wanted = [
            (abi::UFFD_FEATURE_POISON, "UFFDIO_POISON"),
            (abi::UFFD_FEATURE_MINOR_SHMEM, "minor faults on shmem"),
            (abi::UFFD_FEATURE_MINOR_HUGETLBFS, "minor faults on hugetlb"),
        ];
        let mut api = abi::UffdioApi {
            api: abi::UFFD_API,
            features: wanted.iter().fold(0, |all, (feature, _)| all | feature),
            ioctls: 0,
        };
        if let Err(error) = uffd.ioctl(abi::UFFDIO_API, &mut api) {
            // The kernel names no culprit, so the newest of the three is the likeliest.
            return Err(match error.raw_os_error() {
                Some(libc::EINVAL) => UffdError::TooOld {
                    missing: wanted[0].1,
                },
                _ => UffdError::Unavailable(error),
            });
        }
        Ok(uffd)
    }

    /// How it was had.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// Makes touches of `range` that find no page wait, as far as its backing allows
    /// (`UFFDIO_REGISTER`): without a page in the file, and with `minor` also with one.
    pub(crate) fn register(&self, range: HvaRange, minor: bool) -> io::Result<()> {
        let minor = if minor {
            abi::UFFDIO_REGISTER_MODE_MINOR
        } else {
            0
        };
        self.ioctl(
            abi::UFFDIO_REGISTER,
            &mut abi::UffdioRegister {
                range: raw(range),
                mode: abi::UFFDIO_REGISTER_MODE_MISSING | minor,
                ioctls: 0,
            },
        )
    }

    /// Ends that, and lets whoever waits go on. Marks stay.
    pub(crate) fn unregister(&self, range: HvaRange) -> io::Result<()> {
        self.ioctl(abi::UFFDIO_UNREGISTER, &mut raw(range))
    }

    /// Makes every touch of `range` fault from now on. No page may be mapped in it (EEXIST), and
    /// it must be registered.
    pub(crate) fn poison(&self, range: HvaRange) -> io::Result<()> {
        self.all(range, |range| {
            let mut poison = abi::UffdioPoison {
                range,
                mode: 0,
                updated: 0,
            };
            let result = self.ioctl(abi::UFFDIO_POISON, &mut poison);
            (result, poison.updated)
        })
    }

    /// Marks a page that threads are using at this moment. While it is registered, a thread that finds
    /// it unmapped waits, so that nobody can map it again between the two calls; the mark lets them go
    /// on, into the fault.
    pub(crate) fn poison_in_use(&self, page: HvaRange, minor: bool) -> io::Result<()> {
        self.register(page, minor)?;
        // SAFETY: what the page held is to be lost, which is the point; shared memory keeps its bytes
        // in the file.
        let unmapped = unsafe { advise(page.start(), page.len(), libc::MADV_DONTNEED_LOCKED) };
        let marked = unmapped.and_then(|()| self.poison(page));
        let done = self.unregister(page);
        marked.and(done)?;
        match page.len() {
            FRAME_SIZE => set_apart(page),
            // Nothing collapses what is a huge page already.
            _ => Ok(()),
        }
    }

    /// Maps what the file behind `range` holds, which must be all of it.
    pub(crate) fn map_filled(&self, range: HvaRange) -> io::Result<()> {
        self.all(range, |range| {
            let mut fill = abi::UffdioContinue {
                range,
                mode: 0,
                mapped: 0,
            };
            let result = self.ioctl(abi::UFFDIO_CONTINUE, &mut fill);
            (result, fill.mapped)
        })
    }

    /// Repeats a request on what is left of `range` for as long as it says EAGAIN, which means
    /// that it got part of the way.
    fn all(
        &self,
        range: HvaRange,
        mut request: impl FnMut(abi::UffdioRange) -> (io::Result<()>, i64),
    ) -> io::Result<()> {
        let mut left = raw(range);
        while left.len > 0 {
            let (result, done) = request(left);
            match result {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                    let done = u64::try_from(done).unwrap_or(0);
                    left.start += done;
                    left.len -= done;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn ioctl<T>(&self, request: u32, argument: &mut T) -> io::Result<()> {
        // SAFETY: `abi` checks at compile time that each request takes the struct it is called
        // with; the kernel checks the addresses in it.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), request.into(), argument) };
        match done {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

fn raw(range: HvaRange) -> abi::UffdioRange {
    abi::UffdioRange {
        start: range.start().get(),
        len: range.len(),
    }
}

fn open_any() -> io::Result<(OwnedFd, Origin)> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    if let Ok(device) = std::fs::File::open("/dev/userfaultfd") {
        // SAFETY: the request takes its flags by value and returns a descriptor or -1.
        let fd = unsafe { libc::ioctl(device.as_raw_fd(), abi::USERFAULTFD_IOC_NEW.into(), flags) };
        if fd >= 0 {
            // SAFETY: the kernel has just made it for us.
            return Ok((unsafe { OwnedFd::from_raw_fd(fd) }, Origin::Device));
        }
    }
    let user_mode_only = flags | abi::UFFD_USER_MODE_ONLY as libc::c_int;
    let mut refused = None;
    for (flags, origin) in [
        (flags, Origin::SystemCall),
        (user_mode_only, Origin::UserModeOnly),
    ] {
        // SAFETY: the call takes flags and returns a descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        if fd >= 0 {
            // SAFETY: the kernel has just made it for us.
            return Ok((unsafe { OwnedFd::from_raw_fd(fd as i32) }, origin));
        }
        refused = Some(io::Error::last_os_error());
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::Unsupported.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use pagemend_core::address::PageSize;

    use super::*;
    use crate::host::LookingGlass;
    use crate::memory::{GuestMemory, MemoryKind};
    use crate::pool::resize_pool;
    use crate::probe::Pool;

    #[test]
    fn a_huge_page_in_use_is_marked_whole_and_its_file_keeps_the_bytes() {
        let size = PageSize::SIZE_2M;
        let pool = Pool::of(size).expect("the kernel has huge pages of 2 MiB");
        let grown = pool.spare() == 0;
        if grown && resize_pool(size, pool.total + 1).is_err() {
            println!("skipped: there is no free huge page, and getting one takes root");
            return;
        }
        let memory = GuestMemory::new(MemoryKind::Hugetlb(size), size.bytes());
        if grown {
            // The page stays for as long as it is used.
            resize_pool(size, pool.total).unwrap();
        }
        let memory = memory.unwrap();
        memory
            .words()
            .iter()
            .for_each(|word| word.store(7, Relaxed));
        let page = HvaRange::new(memory.hva(), memory.len()).unwrap();
        let glass = LookingGlass::new().unwrap();
        assert!(page.frames().all(|frame| glass.readable(frame)));
        Uffd::open().unwrap().poison_in_use(page, true).unwrap();
        assert!(!page.frames().any(|frame| glass.readable(frame)));
        let mut word = [0; 8];
        for offset in [0, size.bytes() - 8] {
            rustix::io::pread(memory.file().unwrap(), &mut word, offset).unwrap();
            assert_eq!(u64::from_ne_bytes(word), 7);
        }
    }
}
