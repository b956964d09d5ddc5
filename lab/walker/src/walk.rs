//! The threads that walk: one on each processor, over its share of the memory, round after round.

use crate::check::{self, Found, PAGE};
use crate::memory::{Area, HUGE, Memory};
use anyhow::{Context, Result};
use pagemend_lab_protocol::walker::{Signal, Survey, Use};
use std::collections::HashSet;
use std::hint;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

/// Pages between two looks at what others want.
const STRETCH: usize = HUGE / PAGE;

/// Where a thread is.
#[derive(Clone, Default)]
struct Progress {
    /// Stretches done since the start.
    stretches: u64,
    values: u64,
    wrong: u64,
    first_wrong: Option<String>,
    standing: bool,
}

#[derive(Default)]
struct State {
    threads: Vec<Progress>,
    held: bool,
    /// Pages that the first threads read at one instant when they go on.
    together: Vec<usize>,
}

struct Shared {
    memory: Memory,
    state: Mutex<State>,
    news: Condvar,
    /// Whether threads are to look at `state` before they go on.
    halt: AtomicBool,
    /// Threads that are at the line from which all start.
    at_the_line: AtomicUsize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("a walker that panics is the end of its machine")
    }

    fn wait_until(&self, ready: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let waited = self.news.wait_while(self.state(), |state| !ready(state));
        waited.expect("a walker that panics is the end of its machine")
    }
}

/// The walk of all threads.
pub(crate) struct Walk(Arc<Shared>);

impl Walk {
    /// Starts a thread for each share.
    pub(crate) fn start(memory: Memory) -> Result<Self> {
        let threads = memory.shares.len();
        let shared = Arc::new(Shared {
            memory,
            state: Mutex::new(State {
                threads: vec![Progress::default(); threads],
                ..State::default()
            }),
            news: Condvar::new(),
            halt: AtomicBool::new(false),
            at_the_line: AtomicUsize::new(0),
        });
        for index in 0..threads {
            let shared = Arc::clone(&shared);
            let walk = move || {
                keep_on(index);
                Walker::new(&shared, index).walk();
            };
            let thread = thread::Builder::new().name(format!("walker{index}"));
            thread.spawn(walk).context("cannot start a thread")?;
        }
        Ok(Self(shared))
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// What was seen, when every page has been checked once more.
    pub(crate) fn survey(&mut self) -> Survey {
        // The stretch that a thread is in counts from its next.
        let lap = |index: usize| stretches(&self.0.memory, index) + 1;
        let goal: Vec<u64> = (0..)
            .zip(&self.0.state().threads)
            .map(|(i, p)| p.stretches + lap(i))
            .collect();
        let state = self.0.wait_until(|state| {
            state
                .threads
                .iter()
                .zip(&goal)
                .all(|(progress, goal)| progress.stretches >= *goal)
        });
        let laps = (0..)
            .zip(&state.threads)
            .map(|(i, p)| p.stretches / stretches(&self.0.memory, i));
        let rounds = laps.min().unwrap_or(0);
        let signals = check::signals().into_iter().map(|(address, code)| {
            let (frame, what) = self.0.memory.frame_at(address).unwrap_or((0, Use::Slab));
            Signal { frame, code, what }
        });
        Survey {
            rounds,
            values: state.threads.iter().map(|progress| progress.values).sum(),
            wrong: state.threads.iter().map(|progress| progress.wrong).sum(),
            first_wrong: state
                .threads
                .iter()
                .find_map(|progress| progress.first_wrong.clone()),
            signals: signals.collect(),
            ..Survey::default()
        }
    }

    /// Stops all threads, and returns when they stand.
    pub(crate) fn hold(&mut self) {
        self.0.state().held = true;
        self.0.halt.store(true, Ordering::Release);
        drop(
            self.0
                .wait_until(|state| state.threads.iter().all(|progress| progress.standing)),
        );
    }

    /// Lets them go, and returns when they do.
    pub(crate) fn go(&mut self, together: &[u64]) -> Result<()> {
        let address = |frame: &u64| {
            let address = self.0.memory.address_of(*frame);
            address.with_context(|| format!("frame {frame:#x} is not the walker's"))
        };
        let together = together.iter().map(address).collect::<Result<_>>()?;
        let mut state = self.0.state();
        state.together = together;
        state.held = false;
        self.0.at_the_line.store(0, Ordering::Release);
        self.0.halt.store(false, Ordering::Release);
        drop(state);
        self.0.news.notify_all();
        drop(
            self.0
                .wait_until(|state| state.threads.iter().all(|progress| !progress.standing)),
        );
        Ok(())
    }
}

/// One thread.
struct Walker<'a> {
    shared: &'a Shared,
    index: usize,
    /// Areas to walk, and whether they are written.
    areas: Vec<(&'a Area, bool)>,
    lost: HashSet<usize>,
    seen: Progress,
}

impl<'a> Walker<'a> {
    fn new(shared: &'a Shared, index: usize) -> Self {
        let memory = &shared.memory;
        let mut areas = vec![(&memory.shares[index], true)];
        // The first thread has the files as well.
        if index == 0 {
            areas.extend([(&memory.clean, false), (&memory.dirty, true)]);
        }
        Self {
            shared,
            index,
            areas,
            lost: HashSet::new(),
            seen: Progress::default(),
        }
    }

    fn walk(mut self) -> ! {
        for round in 0.. {
            for (area, write) in self.areas.clone() {
                for (number, page) in area.pages().enumerate() {
                    if !self.lost.contains(&page) {
                        self.check(page, round, write);
                    }
                    if (number + 1) % STRETCH == 0 || page + PAGE == area.base + area.len {
                        self.pause_between_stretches();
                    }
                }
            }
        }
        unreachable!("nobody lives for so many rounds")
    }

    fn check(&mut self, page: usize, round: u64, write: bool) {
        // SAFETY: the page is in an area of the walker's, into which no reference goes, and which only this thread touches.
        let found = unsafe {
            match write {
                true => check::advance(page, round),
                false => check::read(page, 0),
            }
        };
        match found {
            Found::Gone => {
                self.lost.insert(page);
            }
            Found::Wrong(wrong) => {
                self.seen.values += (PAGE / 8) as u64;
                self.seen.wrong += wrong;
                if wrong > 0 && self.seen.first_wrong.is_none() {
                    let frame = self
                        .shared
                        .memory
                        .frame_at(page)
                        .map_or(0, |(frame, _)| frame);
                    let place = format!("{wrong} words of frame {frame:#x} in round {round}");
                    self.seen.first_wrong = Some(place);
                }
            }
        }
    }

    /// Says where it is, and stands if it is to.
    fn pause_between_stretches(&mut self) {
        self.seen.stretches += 1;
        let mut state = self.shared.state();
        state.threads[self.index] = self.seen.clone();
        self.shared.news.notify_all();
        if !self.shared.halt.load(Ordering::Acquire) {
            return;
        }
        state.threads[self.index].standing = true;
        let gone_on = self.shared.news.wait_while(state, |state| state.held);
        let mut state = gone_on.expect("a walker that panics is the end of its machine");
        state.threads[self.index].standing = false;
        let together = state.together.clone();
        drop(state);
        self.shared.news.notify_all();
        if let Some(page) = together.get(self.index) {
            self.shared.at_the_line.fetch_add(1, Ordering::AcqRel);
            while self.shared.at_the_line.load(Ordering::Acquire) < together.len() {
                hint::spin_loop();
            }
            // SAFETY: as in `check`; what is read does not matter, only whether it can be.
            if unsafe { check::read(*page, 0) } == Found::Gone {
                self.lost.insert(*page);
            }
        }
    }
}

/// Stretches in a round of a thread.
fn stretches(memory: &Memory, index: usize) -> u64 {
    let files = if index == 0 { 2 } else { 0 };
    (memory.shares[index].len / HUGE) as u64 + files
}

/// Keeps this thread on a processor. Where that is not to be had, it walks all the same.
fn keep_on(cpu: usize) {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    let _ = rustix::thread::sched_setaffinity(None, &cpus);
}
