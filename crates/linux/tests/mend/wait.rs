//! Waiting for what another thread does inside the signal handler, where it cannot tell.

use std::fs;
use std::sync::mpsc;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// More than any step takes; only a test that fails takes so long.
const LIMIT: Duration = Duration::from_secs(20);

/// Looks again and again until it is so.
pub(crate) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !so() {
        assert!(started.elapsed() < LIMIT, "in vain: {what}");
        thread::yield_now();
    }
}

/// The calling thread's id.
pub(crate) fn this_thread() -> i32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Waits until `thread` sleeps on a futex.
pub(crate) fn until_asleep(thread: i32) {
    let call = format!("{} ", libc::SYS_futex);
    until("a thread that sleeps on a futex", || {
        let file = format!("/proc/self/task/{thread}/syscall");
        fs::read_to_string(file).is_ok_and(|now| now.starts_with(&call))
    });
}

/// Starts a thread that does `touch`, and returns when that waits in the handler.
pub(crate) fn stuck<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    touch: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    let (here, started) = mpsc::sync_channel(1);
    let thread = scope.spawn(move || {
        here.send(this_thread()).unwrap();
        touch()
    });
    until_asleep(started.recv().unwrap());
    thread
}
