//! I/O leases: how a mend waits for writers that page tables do not stop.
//!
//! Kernel I/O that has pinned a page (O_DIRECT, io_uring fixed buffers, vhost) goes on writing to
//! the old page after it was salvaged, and those bytes would be lost without a trace. So a device
//! takes a lease on the range that it hands to the kernel and drops it when the I/O is complete; a
//! mend waits until there is none on its page, and makes new ones wait until it is done.
//!
//! A thread that holds a lease must neither touch the same page itself nor wait for another lease
//! before the I/O is complete: if the page is poisoned, the mend waits for the lease and the thread
//! for the mend, until the limit ends it. A thread with I/O in flight that is to begin more, as an
//! event loop does, asks for a lease that it has at once or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pagemend_core::address::{GpaRange, PageSize};

use crate::futex;

/// A mend has the page: takers wait. The other bits count the leases.
const CLOSED: u32 = 1 << 31;

/// Why a lease was not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The range is not, or not all of it, in one region of guest memory.
    #[error("{range} is not in one region of guest memory")]
    OutOfRange {
        /// What was asked for.
        range: GpaRange,
    },
    /// Who does not want to wait would have to: some of it is being mended.
    #[error("some of {range} is being mended")]
    BeingMended {
        /// What was asked for.
        range: GpaRange,
    },
}

/// A lease on the page did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{held} I/O leases on {page} have not ended within {limit:?}")]
pub struct LeaseHeld {
    /// The page.
    pub page: GpaRange,
    /// How many.
    pub held: u32,
    /// How long they were waited for.
    pub limit: Duration,
}

/// All leases of a guest: a counter for each huge page, allocated once.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    regions: Vec<RegionLeases>,
}

#[derive(Debug)]
struct RegionLeases {
    gpa: GpaRange,
    shift: u8,
    pages: Box<[AtomicU32]>,
}

impl Leases {
    /// Adds a region whose huge pages have `page_size`; regions of small pages count by 2 MiB.
    pub(crate) fn add_region(&mut self, gpa: GpaRange, page_size: PageSize) {
        let shift = page_size.max(PageSize::SIZE_2M).shift();
        let pages = gpa.len().div_ceil(1 << shift);
        self.regions.push(RegionLeases {
            gpa,
            shift,
            pages: (0..pages).map(|_| AtomicU32::new(0)).collect(),
        });
    }

    /// The counters of the pages that `range` touches.
    fn words(&self, range: GpaRange) -> Option<&[AtomicU32]> {
        let region = self
            .regions
            .iter()
            .find(|region| region.gpa.covers(&range))?;
        if range.is_empty() {
            return Some(&[]);
        }
        let from = range.start().get() - region.gpa.start().get();
        let first = (from >> region.shift) as usize;
        let last = ((from + range.len() - 1) >> region.shift) as usize;
        region.pages.get(first..=last)
    }

    /// Takes a lease on `range`. Waits only where one of its pages is being mended.
    pub(crate) fn take(self: &Arc<Self>, range: GpaRange) -> Result<Lease, LeaseError> {
        loop {
            let closed = match self.attempt(range)? {
                Ok(lease) => return Ok(lease),
                Err(closed) => closed,
            };
            let mut now = closed.load(Ordering::Relaxed);
            while now & CLOSED != 0 {
                futex::wait(closed, now, None);
                now = closed.load(Ordering::Relaxed);
            }
        }
    }

    /// Takes one that can be had at once.
    pub(crate) fn try_take(self: &Arc<Self>, range: GpaRange) -> Result<Lease, LeaseError> {
        let taken = self.attempt(range)?;
        taken.map_err(|_| LeaseError::BeingMended { range })
    }

    /// A lease, or the page that is being mended.
    fn attempt(self: &Arc<Self>, range: GpaRange) -> Result<Result<Lease, &AtomicU32>, LeaseError> {
        let words = self.words(range).ok_or(LeaseError::OutOfRange { range })?;
        let closed = words
            .iter()
            .position(|word| word.fetch_add(1, Ordering::Acquire) & CLOSED != 0);
        let Some(closed) = closed else {
            return Ok(Ok(Lease {
                leases: Arc::clone(self),
                range,
            }));
        };
        // Whoever waits for one lease holds nothing of it: two mends and two takers cannot wait in a
        // circle.
        give_back(&words[..=closed]);
        Ok(Err(&words[closed]))
    }

    /// Makes takers wait, then waits for those who have taken.
    pub(crate) fn close(&self, page: GpaRange, limit: Duration) -> Result<(), LeaseHeld> {
        let started = Instant::now();
        let words = self.words(page).unwrap_or_default();
        for word in words {
            word.fetch_or(CLOSED, Ordering::AcqRel);
        }
        for word in words {
            let mut now = word.load(Ordering::Acquire);
            while now != CLOSED {
                let left = limit.saturating_sub(started.elapsed());
                if left.is_zero() {
                    self.open(page);
                    let held = now & !CLOSED;
                    return Err(LeaseHeld { page, held, limit });
                }
                futex::wait(word, now, Some(left));
                now = word.load(Ordering::Acquire);
            }
        }
        Ok(())
    }

    /// Lets takers go on.
    pub(crate) fn open(&self, page: GpaRange) {
        for word in self.words(page).unwrap_or_default() {
            word.fetch_and(!CLOSED, Ordering::Release);
            futex::wake_all(word);
        }
    }
}

fn give_back(words: &[AtomicU32]) {
    for word in words {
        if word.fetch_sub(1, Ordering::Release) & CLOSED != 0 {
            futex::wake_all(word);
        }
    }
}

/// A device's claim on a range of guest memory while kernel I/O on it is under way.
#[derive(Debug)]
#[must_use = "the lease ends when it is dropped"]
pub struct Lease {
    leases: Arc<Leases>,
    range: GpaRange,
}

impl Lease {
    /// What the lease is on.
    pub fn range(&self) -> GpaRange {
        self.range
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        give_back(self.leases.words(self.range).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use pagemend_core::address::Gpa;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn range(start: u64, len: u64) -> GpaRange {
        GpaRange::new(Gpa::new(start), len).unwrap()
    }

    fn leases() -> Arc<Leases> {
        let mut leases = Leases::default();
        leases.add_region(range(0, 16 * MIB), PageSize::SIZE_2M);
        Arc::new(leases)
    }

    #[test]
    fn who_has_a_lease_in_flight_is_refused_another_instead_of_waiting_for_itself() {
        let leases = leases();
        let page = range(2 * MIB, 2 * MIB);
        let first = leases.take(range(2 * MIB, 4096)).unwrap();
        thread::scope(|scope| {
            let mend = scope.spawn(|| leases.close(page, Duration::from_secs(600)));
            // As an event loop does: another request, and the end of the first only after that.
            let wanted = range(MIB, 2 * MIB);
            let refused = loop {
                match leases.try_take(wanted) {
                    Ok(before_the_mend) => drop(before_the_mend),
                    Err(error) => break error,
                }
            };
            assert_eq!(refused, LeaseError::BeingMended { range: wanted });
            drop(first);
            assert_eq!(mend.join().unwrap(), Ok(()));
        });
        // What was refused is not counted.
        leases.open(page);
        assert_eq!(leases.close(range(0, 4 * MIB), Duration::ZERO), Ok(()));
    }

    #[test]
    fn a_mend_waits_for_the_leases_on_its_page_and_for_no_others() {
        let leases = leases();
        let elsewhere = leases.take(range(0, 4096)).unwrap();
        let here = leases.take(range(2 * MIB + 4096, 8192)).unwrap();
        let page = range(2 * MIB, 2 * MIB);
        let held = leases.close(page, Duration::from_millis(1)).unwrap_err();
        assert_eq!(held.held, 1);
        drop(here);
        leases.close(page, Duration::from_secs(10)).unwrap();
        leases.open(page);
        drop(elsewhere);
    }

    #[test]
    fn a_taker_waits_until_the_mend_is_done() {
        let leases = leases();
        let page = range(2 * MIB, 2 * MIB);
        leases.close(page, Duration::from_secs(10)).unwrap();
        let (sender, receiver) = mpsc::channel();
        thread::scope(|scope| {
            let taker = Arc::clone(&leases);
            scope.spawn(move || {
                let lease = taker.take(range(MIB, 2 * MIB)).unwrap();
                sender.send(lease.range()).unwrap();
            });
            // The first of its two pages is open: the taker must not hold it while it waits.
            leases
                .close(range(0, 2 * MIB), Duration::from_secs(10))
                .unwrap();
            assert!(receiver.try_recv().is_err());
            leases.open(range(0, 2 * MIB));
            leases.open(page);
            assert_eq!(receiver.recv(), Ok(range(MIB, 2 * MIB)));
        });
    }

    #[test]
    fn a_lease_outside_guest_memory_is_refused() {
        let leases = leases();
        for bad in [range(16 * MIB, 4096), range(15 * MIB, 2 * MIB)] {
            assert_eq!(
                leases.take(bad).unwrap_err(),
                LeaseError::OutOfRange { range: bad }
            );
        }
        assert!(leases.take(range(0, 0)).is_ok());
    }
}
