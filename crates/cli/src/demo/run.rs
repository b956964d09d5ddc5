//! The demonstration itself: workers on all of guest memory, and errors under their hands.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use pagemend::guard::GuardError;
use pagemend::{
    Cause, Event, FRAME_SIZE, Gpa, GuestMemory, GuestRegion, Inject, InjectError, Pagemend,
    RegionConfig, Segment, Totals,
};

use super::error::DemoError;
use super::worker::{Stage, Witness, Worker};
use super::{Injection, Settings};
use crate::progress::Progress;

/// Where the guest sees its memory: not at 0, so that guest and host addresses cannot be mistaken
/// for offsets.
const BASE: Gpa = Gpa::new(4 << 30);
const REGION: &str = "ram";

/// How long errors go on, and the longest time between two.
const SPAN: Duration = Duration::from_millis(1500);
const LONGEST_GAP: Duration = Duration::from_millis(60);

/// All that was seen.
pub(super) struct Outcome {
    /// Guest memory before the first error, and after the last.
    pub(super) before: Vec<Segment>,
    pub(super) after: Vec<Segment>,
    pub(super) injected: BTreeSet<Gpa>,
    pub(super) witness: Witness,
    pub(super) ledger: BTreeSet<Gpa>,
    pub(super) events: Vec<Event>,
    pub(super) totals: Totals,
    /// When the first error was injected, on the events' clock.
    pub(super) started_ns: u64,
    pub(super) elapsed: Duration,
}

/// Runs it; `None` if it was interrupted.
pub(super) fn run(
    settings: &Settings,
    memory: &Arc<GuestMemory>,
    interrupted: &AtomicBool,
) -> Result<Option<Outcome>, DemoError> {
    let system = |what| move |source| DemoError::System { what, source };
    let config = RegionConfig::of(REGION, BASE, Arc::clone(memory));
    let config = config.map_err(system("a file descriptor cannot be duplicated"))?;
    let events = Arc::new(Mutex::new(vec![]));
    let sink = Arc::clone(&events);
    let pagemend = Pagemend::builder()
        .region(config.policy(settings.policy))
        .listen("demo", move |event| {
            let mut events = sink.lock().unwrap_or_else(PoisonError::into_inner);
            events.push(event.clone());
        })
        .demand_mend()
        .start()?;
    let region = pagemend.memory(REGION).expect("it has just been given");
    let before = pagemend.segments();
    let started = Instant::now();
    let stage = Stage::default();
    let Some((injected, started_ns, witness)) =
        work_under_errors(settings, &pagemend, &region, &stage, interrupted)?
    else {
        return Ok(None);
    };
    let events = std::mem::take(&mut *events.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Some(Outcome {
        before,
        after: pagemend.segments(),
        injected,
        witness,
        ledger: pagemend.with_ledger(|ledger| ledger.iter().collect()),
        events,
        totals: pagemend.totals(),
        started_ns,
        elapsed: started.elapsed(),
    }))
}

type Worked = Option<(BTreeSet<Gpa>, u64, Witness)>;

fn work_under_errors(
    settings: &Settings,
    pagemend: &Pagemend,
    region: &GuestRegion,
    stage: &Stage,
    interrupted: &AtomicBool,
) -> Result<Worked, DemoError> {
    thread::scope(|scope| {
        // However this ends, the workers do.
        let _end = Ending(stage);
        let workers: Vec<_> = (0..settings.threads)
            .map(|number| Worker {
                pagemend,
                region: region.clone(),
                stage,
                policy: settings.policy,
                seed: settings.seed,
                number,
                count: settings.threads,
            })
            .map(|worker| scope.spawn(move || worker.work()))
            .collect();
        let frames = region.range().len() / FRAME_SIZE;
        let progress = Progress::new("filling guest memory", frames);
        loop {
            let filled = stage.filled.load(Ordering::Relaxed);
            progress.set(filled);
            if filled == frames || workers.iter().any(ScopedJoinHandle::is_finished) {
                break;
            }
            if interrupted.load(Ordering::Relaxed) {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(5));
        }
        drop(progress);
        let started_ns = now();
        let Some(injected) = inject(settings, pagemend, region, interrupted)? else {
            return Ok(None);
        };
        stage.finish();
        let progress = Progress::spinner("checking all of guest memory");
        while !workers.iter().all(ScopedJoinHandle::is_finished) {
            if interrupted.load(Ordering::Relaxed) {
                return Ok(None);
            }
            progress.tick();
            thread::sleep(Duration::from_millis(5));
        }
        let witness = workers
            .into_iter()
            .map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect::<Result<Vec<Witness>, GuardError>>()?;
        Ok(Some((injected, started_ns, together(witness))))
    })
}

struct Ending<'a>(&'a Stage);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn together(witnesses: Vec<Witness>) -> Witness {
    let passes = witnesses.iter().map(|witness| witness.passes).min();
    witnesses.into_iter().fold(
        Witness {
            passes: passes.unwrap_or_default(),
            ..Witness::default()
        },
        |mut all, one| {
            all.lost.extend(one.lost);
            all.wrong_values += one.wrong_values;
            all.values_checked += one.values_checked;
            all
        },
    )
}

/// Now, on the clock that stamps the events.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_nanos() as u64
}

/// Injects the errors, alternately such as somebody has to touch and such as a scrubber finds.
/// `None` if it was interrupted.
fn inject(
    settings: &Settings,
    pagemend: &Pagemend,
    region: &GuestRegion,
    interrupted: &AtomicBool,
) -> Result<Option<BTreeSet<Gpa>>, DemoError> {
    let injector: Box<dyn Inject> = match settings.inject {
        Injection::Emulated => Box::new(pagemend.emulated_errors()),
        Injection::Madvise => Box::new(pagemend.madvise_errors()),
    };
    let frames = choose_frames(region, settings.errors, settings.seed);
    let gap = (SPAN / u32::try_from(settings.errors.max(1)).unwrap_or(u32::MAX)).min(LONGEST_GAP);
    let progress = Progress::new("injecting errors", settings.errors);
    let causes = [Cause::ActionRequired, Cause::ActionOptional];
    for (frame, cause) in frames.iter().zip(causes.into_iter().cycle()) {
        if interrupted.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match injector.inject(*frame, cause) {
            // With its whole page, where that is the policy.
            Ok(()) | Err(InjectError::Lost { .. }) => progress.advance(),
            Err(error) => return Err(error.into()),
        }
        thread::sleep(gap);
    }
    Ok(Some(frames.into_iter().collect()))
}

/// Different random frames, always the same for a seed, in the order of their failing.
fn choose_frames(region: &GuestRegion, errors: u64, seed: u64) -> Vec<Gpa> {
    let mut random = oorandom::Rand64::new(seed.into());
    let mut frames: Vec<Gpa> = region.range().frames().collect();
    let all = frames.len() as u64;
    for chosen in 0..errors {
        let other = random.rand_range(chosen..all);
        frames.swap(chosen as usize, other as usize);
    }
    frames.truncate(errors as usize);
    frames
}
