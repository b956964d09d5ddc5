//! Threads that check and write all of a guest's memory while it fails: half by guarded access, as device models do, half by plain loads and stores. A word that was written reads as written or not at all.

use crate::faults;
use crate::guest::{Guest, gpa};
use crate::memory::{GIB_1, KIB_4};
use crate::pattern::word;
use crate::toll::THREADS;
use crate::trial::Trial;
use pagemend::GuestRegion;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

/// The threads, as many of each sort. Each has every fourth word, so that it knows what it has written last.
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Seen>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    words: AtomicU64,
    /// Held for reading while a thread works.
    gate: RwLock<()>,
    /// Passes over all its words that each thread has done.
    passes: [AtomicU64; THREADS],
}

impl Shared {
    fn turn(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a thread saw.
#[derive(Default)]
struct Seen {
    wrong: u64,
    lost: BTreeSet<usize>,
}

/// How a thread gets at a word: `None` where it is lost.
enum Access {
    Guarded(GuestRegion),
    Plain(usize),
}

impl Access {
    fn load(&self, offset: usize) -> Option<u64> {
        match self {
            Self::Guarded(region) => region.load(gpa(offset)).ok(),
            Self::Plain(base) => faults::load(*base + offset).ok(),
        }
    }

    fn store(&self, offset: usize, value: u64) -> Option<()> {
        match self {
            Self::Guarded(region) => region.store(gpa(offset), value).ok(),
            // SAFETY: a word of guest memory, into which nobody has references.
            Self::Plain(base) => unsafe { faults::store(*base + offset, value) }.ok(),
        }
    }
}

impl Crowd {
    /// Starts them on all words of the guest, or on some of each frame where it is large.
    pub(crate) fn start(guest: &Guest) -> Self {
        Self::keeping_off(guest, &[])
    }

    /// The same, as a guest does that knows which frames are lost.
    pub(crate) fn keeping_off(guest: &Guest, off: &[usize]) -> Self {
        let stride = if guest.len() < GIB_1 {
            THREADS * 8
        } else {
            KIB_4
        };
        let shared = Arc::new(Shared::default());
        let threads = (0..THREADS)
            .map(|number| {
                let access = match number % 2 {
                    0 => Access::Guarded(guest.guarded()),
                    _ => Access::Plain(guest.base()),
                };
                let (len, shared, off) = (guest.len(), Arc::clone(&shared), off.to_vec());
                let offsets: Vec<usize> = (number * 8..len)
                    .step_by(stride)
                    .filter(|offset| !off.contains(&(offset / KIB_4 * KIB_4)))
                    .collect();
                std::thread::spawn(move || work(access, number, &offsets, &shared))
            })
            .collect();
        let crowd = Self { shared, threads };
        crowd.go_on();
        crowd
    }

    /// Waits until each of them has begun and ended a pass, or one is dead, which the end will show.
    pub(crate) fn go_on(&self) {
        let passes = |number: usize| self.shared.passes[number].load(Ordering::Acquire);
        let until: [u64; THREADS] = std::array::from_fn(|number| passes(number) + 2);
        let dead = || self.threads.iter().any(JoinHandle::is_finished);
        while (0..THREADS).any(|number| passes(number) < until[number]) && !dead() {
            std::thread::yield_now();
        }
    }

    /// Does something while none of them touches memory: a transparent huge page that is in use is not always split, and then the kernel leaves it as it is (`EHWPOISON`).
    pub(crate) fn still<T>(&self, action: impl FnOnce() -> T) -> T {
        let _still = self
            .shared
            .gate
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        action()
    }

    /// Ends them, with the pattern in memory again, and claims what they must have seen. Gives the lost frames that each met.
    pub(crate) fn finish(mut self, t: &mut Trial, lost: &[usize]) -> Vec<BTreeSet<usize>> {
        let seen = self.end();
        t.claim("no thread died", seen.iter().all(Result::is_ok));
        let seen: Vec<Seen> = seen.into_iter().filter_map(Result::ok).collect();
        let wrong: u64 = seen.iter().map(|seen| seen.wrong).sum();
        t.equal("words that were not what was written last", wrong, 0);
        let met = seen.iter().all(|seen| seen.lost.iter().eq(lost));
        t.claim("each of them met all that is lost, and nothing else", met);
        t.saw(
            "words checked and written",
            self.shared.words.load(Ordering::Relaxed),
        );
        seen.into_iter().map(|seen| seen.lost).collect()
    }
}

impl Crowd {
    /// Ends them where what they saw is not the question, with the pattern in what they could reach.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) -> Vec<std::thread::Result<Seen>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).map(JoinHandle::join).collect()
    }
}

/// A scenario that gives up takes its guest's memory with it.
impl Drop for Crowd {
    fn drop(&mut self) {
        self.end();
    }
}

/// Passes over the thread's words until it is stopped; the last pass leaves the pattern behind.
fn work(access: Access, number: usize, offsets: &[usize], shared: &Shared) -> Seen {
    let mut seen = Seen::default();
    let (mut found, mut last) = (0, false);
    while !last {
        last = shared.stop.load(Ordering::Relaxed);
        let left = if last { 0 } else { found + 1 };
        pass(
            &access,
            offsets.iter().copied(),
            found,
            left,
            shared,
            &mut seen,
        );
        found = left;
        shared.passes[number].fetch_add(1, Ordering::Release);
    }
    seen
}

/// Expects round `found` in each word and leaves round `left`.
fn pass(
    access: &Access,
    offsets: impl Iterator<Item = usize>,
    found: u64,
    left: u64,
    shared: &Shared,
    seen: &mut Seen,
) {
    let mut passed_over = None;
    let mut turn = shared.turn();
    for (count, offset) in offsets.enumerate() {
        let frame = offset / KIB_4 * KIB_4;
        // Lost is lost: looking again in the last pass is enough, and each look is a signal.
        let known = seen.lost.contains(&frame);
        if passed_over == Some(frame) || (known && left > 0) {
            continue;
        }
        let gone = match access.load(offset) {
            Some(value) => {
                seen.wrong += u64::from(value != word(offset) ^ (found << 1));
                // What was lost once and can be read again is a loss that was not kept.
                seen.wrong += u64::from(known);
                access.store(offset, word(offset) ^ (left << 1)).is_none()
            }
            None => true,
        };
        if gone {
            seen.lost.insert(frame);
            passed_over = Some(frame);
        }
        if count % 64 == 0 {
            shared.words.fetch_add(64, Ordering::Release);
            drop(turn);
            turn = shared.turn();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_dead_thread_goes_on() {
        let dies = || -> Seen { panic!("as it should") };
        let crowd = Crowd {
            shared: Arc::default(),
            threads: vec![std::thread::spawn(dies)],
        };
        crowd.go_on();
        assert!(crowd.threads[0].is_finished());
    }
}
