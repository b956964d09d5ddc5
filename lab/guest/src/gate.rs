//! Holding threads that run into poisoned memory until somebody says go: in a word, what a mender's signal handler does.

use std::sync::atomic::{AtomicU32, Ordering};

const NONE: u32 = 0;
const CLOSED: u32 = 1;
const OPEN: u32 = 2;

static STATE: AtomicU32 = AtomicU32::new(NONE);
static HELD: AtomicU32 = AtomicU32::new(0);

/// From here on, a thread that faults waits.
pub(crate) fn close() {
    HELD.store(0, Ordering::SeqCst);
    STATE.store(CLOSED, Ordering::SeqCst);
}

/// Waits until so many threads wait.
pub(crate) fn wait_for_held(threads: u32) {
    loop {
        let held = HELD.load(Ordering::SeqCst);
        if held >= threads {
            return;
        }
        wait(&HELD, held);
    }
}

/// How many faults were held since the gate was closed.
pub(crate) fn held() -> u32 {
    HELD.load(Ordering::SeqCst)
}

/// Lets the waiting threads touch again. One that faults again does so without end, which the time limit ends.
pub(crate) fn open() {
    STATE.store(OPEN, Ordering::SeqCst);
    wake(&STATE);
}

/// For the signal handler: waits while the gate is closed, and says whether there is a gate at all.
pub(crate) fn hold() -> bool {
    if STATE.load(Ordering::SeqCst) == NONE {
        return false;
    }
    HELD.fetch_add(1, Ordering::SeqCst);
    wake(&HELD);
    while STATE.load(Ordering::SeqCst) == CLOSED {
        wait(&STATE, CLOSED);
    }
    true
}

fn wait(word: &AtomicU32, value: u32) {
    // SAFETY: the word is a static; the kernel reads it and nothing else.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            std::ptr::null::<libc::timespec>(),
        )
    };
}

fn wake(word: &AtomicU32) {
    // SAFETY: the word is a static; waking changes no memory.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            i32::MAX,
        )
    };
}
