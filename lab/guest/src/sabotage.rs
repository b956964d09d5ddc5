//! Breaks the running mender: a filter on its thread's system calls answers some of them wrongly, so that it leaves out or spoils a step of a mend and takes it for done.

use crate::arch::stopped_call;
use crate::memory::KIB_4;
use crate::seccomp::{self, NUMBER, answer, argument, load, unless};
use crate::userfault::UFFDIO_POISON;
use std::io;

/// `UFFDIO_POISON` gives 0 and is not done.
static MARKS: [libc::sock_filter; 6] = [
    load(NUMBER),
    unless(libc::SYS_ioctl as u32, 3),
    load(argument(1)),
    unless(UFFDIO_POISON as u32, 1),
    answer(libc::SECCOMP_RET_ERRNO),
    answer(libc::SECCOMP_RET_ALLOW),
];

/// `pread`, by which pages are salvaged, is left to this process's handler of SIGSYS.
static READS: [libc::sock_filter; 4] = [
    load(NUMBER),
    unless(libc::SYS_pread64 as u32, 1),
    answer(libc::SECCOMP_RET_TRAP),
    answer(libc::SECCOMP_RET_ALLOW),
];

/// This thread marks nothing as lost from now on, and does not know it.
pub(crate) fn marks_nothing() -> io::Result<()> {
    seccomp::install(&MARKS)
}

/// What this thread reads of files is zeros from now on; how much of it can be read is as it was.
pub(crate) fn reads_zeros() -> io::Result<()> {
    catch(zeros)?;
    seccomp::install(&READS)
}

/// This thread finds the frame behind `bad` of its file unreadable from now on, instead of that one.
pub(crate) fn takes_the_next_for_bad() -> io::Result<()> {
    catch(beside)?;
    seccomp::install(&READS)
}

/// The one frame that [`beside`] is about.
pub(crate) const BAD: usize = 0x5000;

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

fn catch(handler: Handler) -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO;
    action.sa_sigaction = handler as *const () as usize;
    // SAFETY: the handler has the signature of SA_SIGINFO and does only what a handler may.
    match unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn zeros(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's context, used here alone.
    let ([file, to, len, at], answer) = unsafe { stopped_call(context) };
    *answer = read(file, to, len, at);
    blank(to, (*answer).max(0));
}

extern "C" fn beside(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel's context, used here alone.
    let ([file, to, len, at], answer) = unsafe { stopped_call(context) };
    let before = (BAD as u64).checked_sub(at).filter(|before| *before < len);
    *answer = match before {
        _ if at == (BAD + KIB_4) as u64 => -i64::from(libc::EIO),
        Some(before) => {
            read(file, to, before, at);
            blank(to + before, KIB_4 as i64);
            before as i64 + KIB_4 as i64
        }
        None => read(file, to, len, at),
    };
}

/// The system call that was stopped, by another name that is not: what it read, or the error as the kernel gives it.
fn read(file: u64, to: u64, len: u64, at: u64) -> i64 {
    let into = libc::iovec {
        iov_base: to as *mut libc::c_void,
        iov_len: len as usize,
    };
    // SAFETY: the caller of the stopped call owns what it reads into.
    let read = unsafe { libc::syscall(libc::SYS_preadv, file, &raw const into, 1, at, 0) };
    match read {
        // SAFETY: this thread's own errno.
        -1 => -i64::from(unsafe { *libc::__errno_location() }),
        read => read,
    }
}

/// Makes zeros of what was read.
fn blank(to: u64, len: i64) {
    // SAFETY: the caller of the stopped call owns it, and was to find it changed.
    unsafe { (to as *mut u8).write_bytes(0, len as usize) };
}
