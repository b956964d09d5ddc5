//! A thread that reads one word without end, as a vCPU would: every read must give what was written, however long it takes.

use crate::pattern::word;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// The thread. Dropped without [`Reader::finish`], which is when the scenario failed and the thread may wait for ever, it is left to the end of the process.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    reads: AtomicU64,
    wrong: AtomicU64,
}

impl Reader {
    /// Starts reading the pattern's word at an offset of a filled mapping.
    pub(crate) fn start(base: usize, offset: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !theirs.stop.load(Ordering::Relaxed) {
                // SAFETY: a plain read in a mapping of the scenario; a fault is held by the gate.
                let found = unsafe { ((base + offset) as *const u64).read_volatile() };
                if found != word(offset) {
                    theirs.wrong.fetch_add(1, Ordering::Relaxed);
                }
                theirs.reads.fetch_add(1, Ordering::Release);
            }
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Waits until it has read a good deal more.
    pub(crate) fn go_on(&self) {
        let until = self.shared.reads.load(Ordering::Acquire) + 1000;
        while self.shared.reads.load(Ordering::Acquire) < until {
            std::thread::yield_now();
        }
    }

    /// Ends it, and gives the number of reads that gave something else than was written.
    pub(crate) fn finish(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.shared.wrong.load(Ordering::Relaxed)
    }
}
