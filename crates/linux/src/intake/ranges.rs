//! Which addresses are guest memory, in a form that a signal handler can read.

use std::sync::atomic::{AtomicU64, Ordering};

use pagemend_core::address::{Hva, HvaRange};

/// How many regions a guest can have.
pub(crate) const MAX_REGIONS: usize = 64;

struct Range {
    start: AtomicU64,
    /// Equal to the start where there is no region.
    end: AtomicU64,
}

static TABLE: [Range; MAX_REGIONS] = [const {
    Range {
        start: AtomicU64::new(0),
        end: AtomicU64::new(0),
    }
}; MAX_REGIONS];

/// Sets the regions; at most [`MAX_REGIONS`].
pub(crate) fn set(ranges: &[HvaRange]) {
    assert!(ranges.len() <= MAX_REGIONS);
    for (entry, range) in TABLE.iter().zip(ranges) {
        entry.start.store(range.start().get(), Ordering::Relaxed);
        entry.end.store(range.end().get(), Ordering::Release);
    }
}

/// From now on nothing is guest memory.
pub(crate) fn clear() {
    for entry in &TABLE {
        entry.end.store(0, Ordering::Release);
        entry.start.store(0, Ordering::Relaxed);
    }
}

/// Whether `hva` is guest memory. Async-signal-safe.
pub(crate) fn contain(hva: Hva) -> bool {
    TABLE.iter().any(|entry| {
        let end = entry.end.load(Ordering::Acquire);
        hva.get() < end && entry.start.load(Ordering::Relaxed) <= hva.get()
    })
}
