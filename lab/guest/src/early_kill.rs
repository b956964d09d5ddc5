//! A thread that wants to hear of errors before anybody touches them, and hears of them without a signal handler: `PR_MCE_KILL_EARLY`, SIGBUS blocked, a signalfd.

use crate::faults::Fault;
use anyhow::{Context, Result};
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The thread. It looks for signals when asked, since a signalfd shows a thread its own.
pub(crate) struct EarlyKill {
    ask: Option<Sender<()>>,
    answer: Receiver<Option<Fault>>,
    thread: Option<JoinHandle<()>>,
}

impl EarlyKill {
    /// Starts it. When this returns, it is listening.
    pub(crate) fn start() -> Result<Self> {
        let (ask, asked) = channel();
        let (tell, answer) = channel();
        let (ready, is_ready) = channel();
        let thread = std::thread::spawn(move || match listen() {
            Ok(file) => {
                let _ = ready.send(Ok(()));
                for () in asked {
                    let _ = tell.send(next(&file));
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        });
        is_ready
            .recv()
            .context("the early-kill thread died")?
            .context("cannot ask for early kill")?;
        Ok(Self {
            ask: Some(ask),
            answer,
            thread: Some(thread),
        })
    }

    /// The next thing that it was told, if there is one now.
    pub(crate) fn told(&self) -> Option<Fault> {
        self.ask.as_ref()?.send(()).ok()?;
        self.answer.recv().ok()?
    }
}

impl Drop for EarlyKill {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes this thread an early-kill thread with a signalfd.
pub(crate) fn listen() -> io::Result<OwnedFd> {
    // SAFETY: prctl with numbers only.
    let early = unsafe {
        libc::prctl(
            libc::PR_MCE_KILL,
            libc::PR_MCE_KILL_SET,
            libc::PR_MCE_KILL_EARLY,
            0,
            0,
        )
    };
    if early != 0 {
        return Err(io::Error::last_os_error());
    }
    let set = mask(libc::SIG_BLOCK);
    // SAFETY: the set is only read.
    let file =
        unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// Does something with SIGBUS let through to the handler. What was told before must have been taken.
pub(crate) fn unblocked<T>(action: impl FnOnce() -> T) -> T {
    mask(libc::SIG_UNBLOCK);
    let result = action();
    mask(libc::SIG_BLOCK);
    result
}

/// Blocks or unblocks SIGBUS in this thread, and gives the set that it is in.
fn mask(how: i32) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that the other calls read.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGBUS);
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut());
        set.assume_init()
    }
}

/// The next signal of this thread, if there is one now.
pub(crate) fn next(file: &OwnedFd) -> Option<Fault> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: read gets a buffer of its size.
    let read = unsafe { libc::read(file.as_raw_fd(), info.as_mut_ptr().cast(), size) };
    if read != size as isize {
        return None;
    }
    // SAFETY: the kernel filled all of it.
    let info = unsafe { info.assume_init() };
    Some(Fault {
        signal: info.ssi_signo as i32,
        code: info.ssi_code,
        lsb: u32::from(info.ssi_addr_lsb),
        address: info.ssi_addr as usize,
    })
}
