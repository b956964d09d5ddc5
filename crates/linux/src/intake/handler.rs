//! The process's SIGBUS handler.
//!
//! Async-signal-safe: atomics, and the system calls futex, write, gettid, getpid and those that
//! change a signal's disposition. No allocation, no lock, no panic, bounded work but for the wait
//! itself; under a kilobyte of stack.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use pagemend_core::address::Hva;
use pagemend_core::fault::{Evidence, Fault, Verdict};
use pagemend_core::ledger::Cause;

use super::threads::Owner;
use super::{last_words, notice, ranges, slot, threads};
use crate::guard;

/// What handled SIGBUS before.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written once before the handler can run, and only read from then on.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));
static INSTALLED: AtomicBool = AtomicBool::new(false);
/// The process that has the mender: a child of a fork has the handler, but no mender.
static PROCESS: AtomicI32 = AtomicI32::new(0);
/// The mender's own thread, which cannot wait for itself.
static MENDER: AtomicI32 = AtomicI32::new(0);

/// The calling thread is the mender's, and its process the one that has a mender.
pub(crate) fn set_mender_thread() {
    MENDER.store(threads::current(), Ordering::Release);
    // SAFETY: the call takes nothing and cannot fail.
    PROCESS.store(unsafe { libc::getpid() }, Ordering::Release);
}

/// Whether this is the process that has the mender, and not a child of it. Async-signal-safe.
pub(crate) fn in_menders_process() -> bool {
    // SAFETY: the call takes nothing and cannot fail.
    let process = unsafe { libc::getpid() };
    process == PROCESS.load(Ordering::Acquire)
}

/// Installs the handler.
pub(crate) fn install() -> io::Result<()> {
    // Ours, or one that was installed over ours and chains to it. One that was taken away chains
    // to nobody.
    if INSTALLED.load(Ordering::Acquire) && !is_default(current()?.sa_sigaction) {
        return Ok(());
    }
    // SAFETY: the handler is not installed, so nobody reads PREVIOUS yet; it is read before the
    // handler can run, which could otherwise find it half written.
    let read = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), PREVIOUS.0.get().cast()) };
    // SAFETY: the action is complete and the handler lives as long as the program.
    let done = unsafe { libc::sigaction(libc::SIGBUS, &ours(), ptr::null_mut()) };
    if read != 0 || done != 0 {
        return Err(io::Error::last_os_error());
    }
    INSTALLED.store(true, Ordering::Release);
    Ok(())
}

/// Our handler, as the kernel is told of it.
fn ours() -> libc::sigaction {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    // Further ones wait until it returns, so that errors in quick succession do not pile up on a
    // signal stack that has room for one or two. ONSTACK: a thread's stack may be where the fault is.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    action
}

/// What handles SIGBUS now.
fn current() -> io::Result<libc::sigaction> {
    let mut now = MaybeUninit::uninit();
    // SAFETY: room for the current action.
    match unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), now.as_mut_ptr()) } {
        // SAFETY: the call succeeded and has written it.
        0 => Ok(unsafe { now.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn is_default(handler: libc::sighandler_t) -> bool {
    matches!(handler, libc::SIG_DFL | libc::SIG_IGN)
}

/// Puts back what was there before, unless someone has installed a handler over ours meanwhile;
/// that one may chain to ours, which then does nothing but chain on.
pub(crate) fn uninstall() {
    let now = current().map(|action| action.sa_sigaction);
    if now.is_ok_and(|now| now == ours().sa_sigaction) {
        // SAFETY: PREVIOUS was written by `install`, without which the handler is not ours.
        unsafe { libc::sigaction(libc::SIGBUS, PREVIOUS.0.get().cast(), ptr::null_mut()) };
        INSTALLED.store(false, Ordering::Release);
    }
}

/// `si_code` of a memory failure whose page somebody touched (include/uapi/asm-generic/siginfo.h).
const BUS_MCEERR_AR: libc::c_int = 4;
/// The same for one that nobody has touched.
const BUS_MCEERR_AO: libc::c_int = 5;

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: errno belongs to the thread; the interrupted code must find it as it was.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid siginfo and a context that is this frame's to change.
    let (info, context) = unsafe { (&mut *info, &mut *context.cast::<libc::ucontext_t>()) };
    match handle(info, context) {
        Handled::Yes => {}
        Handled::No => chain(signal, info, context, last_words::default_action),
        // What follows has been said already.
        Handled::Lost => chain(signal, info, context, |_| ()),
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// What came of a fault.
enum Handled {
    /// It is dealt with, so the thread can go on.
    Yes,
    /// It is none of ours.
    No,
    /// Somebody touched lost bytes who cannot be given an error: that is on stderr.
    Lost,
}

fn handle(info: &libc::siginfo_t, context: &mut libc::ucontext_t) -> Handled {
    let (cause, evidence) = match info.si_code {
        BUS_MCEERR_AR => (Cause::ActionRequired, Evidence::MemoryFailure),
        BUS_MCEERR_AO => (Cause::ActionOptional, Evidence::MemoryFailure),
        libc::BUS_ADRERR => (Cause::ActionRequired, Evidence::AddressError),
        _ => return Handled::No,
    };
    // SAFETY: these codes carry an address.
    let address = Hva::new(unsafe { info.si_addr() } as u64);
    if !in_menders_process() || !ranges::contain(address) {
        return Handled::No;
    }
    let fault = Fault {
        address,
        cause,
        evidence,
    };
    if cause == Cause::ActionOptional {
        slot::tell(&fault);
        return Handled::Yes;
    }
    let lost = if threads::current() == MENDER.load(Ordering::Acquire) {
        None
    } else {
        match threads::leave_with_guest(&fault) {
            Owner::Guest => return Handled::Yes,
            Owner::Touch if guard::land(context, address.get() as usize) => return Handled::Yes,
            Owner::Touch | Owner::Thread => {}
        }
        match slot::ask(&fault) {
            Verdict::Mended => return Handled::Yes,
            Verdict::NotOurs => return Handled::No,
            Verdict::Lost { gpa } => Some(gpa),
        }
    };
    if guard::land(context, address.get() as usize) {
        return Handled::Yes;
    }
    match lost {
        Some(gpa) => last_words::lost(address, gpa),
        None => last_words::mender_thread(address),
    }
    Handled::Lost
}

/// Does what would have happened without us, after `last_words` where that ends the process.
fn chain(
    signal: libc::c_int,
    info: &mut libc::siginfo_t,
    context: &mut libc::ucontext_t,
    last_words: fn(&libc::siginfo_t),
) {
    // SAFETY: `install` wrote it before this handler could run, and nobody writes it any more.
    let previous = unsafe { (*PREVIOUS.0.get()).assume_init_ref() };
    // By kill(2) or sigqueue(3), or for an error that nobody has touched: returning would not
    // bring it back, as it does a fault.
    let sent = info.si_code <= 0 || info.si_code == BUS_MCEERR_AO;
    match previous.sa_sigaction {
        libc::SIG_IGN if info.si_code <= 0 => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            last_words(info);
            // SAFETY: an all-zero sigaction is the default action. The access is executed again
            // and the kernel ends the process as it would have, with the right address in the
            // core file.
            unsafe {
                let default: libc::sigaction = MaybeUninit::zeroed().assume_init();
                libc::sigaction(signal, &default, ptr::null_mut());
                if sent {
                    libc::raise(signal);
                }
            }
        }
        handler => {
            let mut mask = MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: the handler was installed by the program with these flags and this mask,
            // and is called as the kernel would call it, but that a fault inside it reaches us,
            // where a blocked one would kill; the mask is put back as it was.
            unsafe {
                let ours = notice::sigbus();
                libc::pthread_sigmask(libc::SIG_UNBLOCK, &ours, mask.as_mut_ptr());
                libc::pthread_sigmask(libc::SIG_BLOCK, &previous.sa_mask, ptr::null_mut());
                if previous.sa_flags & libc::SA_SIGINFO != 0 {
                    type Handler =
                        extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
                    let handler: Handler = std::mem::transmute(handler);
                    handler(signal, info, ptr::from_mut(context).cast());
                } else {
                    let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                    handler(signal);
                }
                libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), ptr::null_mut());
            }
            if sent {
                stay();
            }
        }
    }
}

/// A handler may give up by setting the default action and returning, as that of Rust's runtime
/// does. For a fault that is the end; a signal that was sent has passed then, and what we are here
/// for is still to come.
fn stay() {
    let given_up = current().is_ok_and(|now| is_default(now.sa_sigaction));
    if given_up && INSTALLED.load(Ordering::Acquire) {
        // SAFETY: the action is complete and the handler lives as long as the program.
        unsafe { libc::sigaction(libc::SIGBUS, &ours(), ptr::null_mut()) };
    }
}
