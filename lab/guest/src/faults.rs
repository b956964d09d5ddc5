//! Touching memory that may be gone: a load or a store gives what was read or the signal that came instead. Also catches the signals that the kernel sends to a thread while it injects an error itself.

use crate::{arch, gate};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// A signal about memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Fault {
    pub(crate) signal: i32,
    pub(crate) code: i32,
    /// `si_addr_lsb`: the least significant bit of the address that means anything. Only a machine-check signal has one.
    pub(crate) lsb: u32,
    pub(crate) address: usize,
}

impl Fault {
    /// `BUS_MCEERR_AR` at this address with this lsb.
    pub(crate) fn action_required(address: usize, lsb: u32) -> Self {
        Self {
            signal: libc::SIGBUS,
            code: libc::BUS_MCEERR_AR,
            lsb,
            address,
        }
    }

    /// `BUS_MCEERR_AO` at this address with this lsb.
    pub(crate) fn action_optional(address: usize, lsb: u32) -> Self {
        Self {
            code: libc::BUS_MCEERR_AO,
            ..Self::action_required(address, lsb)
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.signal, self.code) {
            (libc::SIGBUS, libc::BUS_MCEERR_AR) => write!(f, "AR lsb {}", self.lsb),
            (libc::SIGBUS, libc::BUS_MCEERR_AO) => write!(f, "AO lsb {}", self.lsb),
            (libc::SIGBUS, libc::BUS_ADRERR) => f.write_str("SIGBUS ADRERR"),
            (libc::SIGBUS, code) => write!(f, "SIGBUS {code}"),
            (libc::SIGSEGV, code) => write!(f, "SIGSEGV {code}"),
            (signal, code) => write!(f, "signal {signal} code {code}"),
        }
    }
}

/// What a touch gave.
pub(crate) type Touch = Result<u64, Fault>;

thread_local! {
    static CAUGHT: Cell<Option<Fault>> = const { Cell::new(None) };
    static EXPECTING: Cell<bool> = const { Cell::new(false) };
    static FIRST: Cell<Option<Fault>> = const { Cell::new(None) };
    static OPTIONAL: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Catches SIGBUS and SIGSEGV from here on.
pub(crate) fn install() -> io::Result<()> {
    for signal in [libc::SIGBUS, libc::SIGSEGV] {
        // SAFETY: an all-zero sigaction is a valid one.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        action.sa_sigaction = handler as *const () as usize;
        // SAFETY: the handler has the signature of SA_SIGINFO and does only what a handler may.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Reads the word at an address, whatever is or is not there. An unaligned address reads over a page's end.
pub(crate) fn load(address: usize) -> Touch {
    CAUGHT.set(None);
    // SAFETY: the load may fault; the handler then records it and skips it. Other memory is not changed.
    let word = unsafe { arch::pagemend_lab_load(address) };
    CAUGHT.take().map_or(Ok(word), Err)
}

/// Writes the word at an address.
///
/// # Safety
/// Nothing that Rust knows of lives at the address: it is in a mapping that only scenarios use.
pub(crate) unsafe fn store(address: usize, word: u64) -> Result<(), Fault> {
    CAUGHT.set(None);
    // SAFETY: the caller vouches for the address; a fault is recorded and skipped.
    unsafe { arch::pagemend_lab_store(address, word) };
    CAUGHT.take().map_or(Ok(()), Err)
}

/// Does something during which the kernel may signal this thread, and gives the signal.
pub(crate) fn catching<T>(action: impl FnOnce() -> T) -> (T, Option<Fault>) {
    CAUGHT.set(None);
    EXPECTING.set(true);
    let result = action();
    EXPECTING.set(false);
    (result, CAUGHT.take())
}

/// Reads the word at an address again and again until a signal comes, by the reading or otherwise, and gives the first. Counts its loads.
pub(crate) fn load_until_signal(address: usize, loads: &AtomicU64) -> Fault {
    FIRST.set(None);
    EXPECTING.set(true);
    let fault = loop {
        // SAFETY: as in `load`.
        unsafe { arch::pagemend_lab_load(address) };
        loads.fetch_add(1, Ordering::Relaxed);
        if let Some(fault) = FIRST.get() {
            break fault;
        }
    };
    EXPECTING.set(false);
    fault
}

/// The first "action optional" that this thread's handler got since the last call. It does not belong to what the thread did then, so nothing else shows it.
pub(crate) fn optional() -> Option<Fault> {
    OPTIONAL.take()
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a siginfo that is valid while the handler runs; si_addr is set for these signals.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let machine_check = matches!(code, libc::BUS_MCEERR_AR | libc::BUS_MCEERR_AO);
    let fault = Fault {
        signal,
        code,
        lsb: if signal == libc::SIGBUS && machine_check {
            // SAFETY: si_addr_lsb is a short right after si_addr, which is 16 bytes in on 64-bit Linux.
            u32::from(unsafe { info.cast::<u8>().add(24).cast::<u16>().read() })
        } else {
            0
        },
        address,
    };
    if code == libc::BUS_MCEERR_AO {
        OPTIONAL.set(OPTIONAL.get().or(Some(fault)));
        return;
    }
    // SAFETY: the context is the kernel's.
    if unsafe { arch::skip_probe(context) } || EXPECTING.get() {
        CAUGHT.set(Some(fault));
        FIRST.set(FIRST.get().or(Some(fault)));
    } else if code != libc::BUS_MCEERR_AR || !gate::hold() {
        // Nobody expects this one: let it kill, as it would have.
        // SAFETY: resetting a signal to its default is allowed in a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
