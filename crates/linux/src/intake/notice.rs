//! Errors that nobody has touched yet, as the mender's thread receives them.
//!
//! The kernel sends `BUS_MCEERR_AO` to the first thread that asks to be told early. Ours asks,
//! keeps SIGBUS blocked and reads a signalfd, so no handler runs and nothing is interrupted.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use pagemend_core::address::Hva;
use pagemend_core::fault::{Evidence, Fault};
use pagemend_core::ledger::Cause;

/// `si_code` of an error that nobody has touched (include/uapi/asm-generic/siginfo.h).
pub(crate) const BUS_MCEERR_AO: i32 = 5;

/// The calling thread's signalfd for SIGBUS.
#[derive(Debug)]
pub(crate) struct Notices {
    fd: OwnedFd,
}

impl Notices {
    /// Makes the calling thread one that hears of errors through a file, and with `early` the one
    /// that the kernel tells early.
    pub(crate) fn new(early: bool) -> io::Result<Self> {
        let set = sigbus();
        block()?;
        if early {
            tell_early()?;
        }
        // SAFETY: the set is complete; the call returns a descriptor or -1.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The next notice, or `None` where there is none. A SIGBUS that is no notice, because someone
    /// sent it to this thread, is passed over.
    pub(crate) fn next(&self) -> Option<Fault> {
        loop {
            let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
            let size = size_of::<libc::signalfd_siginfo>();
            // SAFETY: room for one of what a signalfd gives.
            let read = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
            if read != size as isize {
                return None;
            }
            // SAFETY: the read filled it.
            let info = unsafe { info.assume_init() };
            if info.ssi_code == BUS_MCEERR_AO {
                return Some(Fault {
                    address: Hva::new(info.ssi_addr),
                    cause: Cause::ActionOptional,
                    evidence: Evidence::MemoryFailure,
                });
            }
            tracing::warn!(
                code = info.ssi_code,
                "SIGBUS to the mender's thread is no memory failure"
            );
        }
    }
}

impl AsFd for Notices {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `foreign` code on the mender's thread. While it runs SIGBUS is not blocked: a fault that it
/// meets reaches the handler, where a blocked one would end the process.
pub(crate) fn unblocked<T>(foreign: impl FnOnce() -> T) -> T {
    let set = sigbus();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both sets are locals.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, before.as_mut_ptr()) };
    let result = foreign();
    // SAFETY: the first call has written the mask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    result
}

fn tell_early() -> io::Result<()> {
    // SAFETY: prctl with these numbers takes no pointers.
    let told_early = unsafe {
        libc::prctl(
            libc::PR_MCE_KILL,
            libc::PR_MCE_KILL_SET,
            libc::PR_MCE_KILL_EARLY,
            0,
            0,
        )
    };
    match told_early {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn block() -> io::Result<()> {
    let set = sigbus();
    // SAFETY: the set is complete.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// SIGBUS alone. Async-signal-safe.
pub(super) fn sigbus() -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that sigaddset then adds to.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGBUS);
        set.assume_init()
    }
}
