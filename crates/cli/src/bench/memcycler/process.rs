//! The cases in this process: all of them there at the same time, and threads that use one after
//! the other.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pagemend::{
    Action, Cause, Gpa, GpaRange, GuestMemory, Inject, Pagemend, Reason, RegionConfig, Segment,
    Step,
};

use super::cases::{Case, Policy, Samples, Setup, heal};
use super::field::{SLOT, parts};
use super::walk::{Walker, value};
use super::{Access, Pattern};
use crate::bench::error::BenchError;
use crate::bench::pieces::Piece;
use crate::bench::room::Room;
use crate::progress::Progress;

/// What all cases together take.
pub(super) fn room(setup: &Setup) -> Room {
    Room {
        guest: Some((setup.huge.size(), setup.bytes * setup.cases.len() as u64)),
        other: setup.hits() * setup.huge.bytes(),
    }
}

/// A case that is ready.
struct Ready {
    memory: Arc<GuestMemory>,
    walkers: Vec<Walker>,
    samples: Samples,
}

/// Measures all cases in turn.
pub(super) fn measure(setup: &Setup, interrupted: &AtomicBool) -> Result<Vec<Samples>, BenchError> {
    let progress = Progress::new("preparing memory", setup.cases.len() as u64);
    let mut memories = vec![];
    for _ in &setup.cases {
        if interrupted.load(Ordering::Relaxed) {
            return Err(BenchError::Interrupted);
        }
        let memory = GuestMemory::new(setup.huge.kind(), setup.bytes)?;
        for (number, word) in memory.words().iter().enumerate() {
            word.store(value(number as u64, 0), Ordering::Relaxed);
        }
        memories.push(Arc::new(memory));
        progress.advance();
    }
    drop(progress);
    // Lives as long as the memory is used, so that what is measured has a mender to look after it.
    let pagemend = mend(setup, &memories)?;
    let slots = setup.bytes / SLOT;
    let mut ready = vec![];
    for (number, (case, memory)) in setup.cases.iter().zip(memories).enumerate() {
        let pieces = match (case.policy, &pagemend) {
            (policy, Some(pagemend)) if policy.is_watched() => {
                let own = pagemend.segments().into_iter();
                Piece::of(own.filter(|segment: &Segment| case_of(segment.gpa.start()) == number))
            }
            _ => setup.split_pieces(case),
        };
        if case.policy == Policy::Split {
            for lost in &case.lost {
                memory
                    .split(setup.page_of(*lost), setup.huge.bytes())
                    .map_err(BenchError::system("copying to pages of 4 KiB"))?;
            }
        }
        let parts = parts(slots, setup.threads.into(), &setup.left_out);
        ready.push(Ready {
            memory,
            walkers: parts.into_iter().map(Walker::new).collect(),
            samples: Samples {
                pieces,
                ..Samples::default()
            },
        });
    }
    let turns = u64::from(setup.rounds) * ready.len() as u64;
    let progress = Progress::new("using memory", turns);
    for round in 0..setup.rounds as usize {
        for turn in 0..ready.len() {
            let number = (turn + round) % ready.len();
            let case = &mut ready[number];
            for (access, rates) in Access::ALL.into_iter().zip(&mut case.samples.rates) {
                if interrupted.load(Ordering::Relaxed) {
                    return Err(BenchError::Interrupted);
                }
                let words = case.memory.words();
                rates.push(take_turn(
                    words,
                    &mut case.walkers,
                    (setup.pattern, access),
                    setup.turn,
                )?);
            }
            progress.advance();
        }
    }
    Ok(ready.into_iter().map(|case| case.samples).collect())
}

/// Where the guest sees the memory of a case: far from all others.
fn base(case: usize) -> Gpa {
    Gpa::new((case as u64) << 40)
}

fn case_of(gpa: Gpa) -> usize {
    (gpa.get() >> 40) as usize
}

/// Has pagemend look after the memory of all cases for which it does, and their errors happen; `None`
/// where there are none.
fn mend(setup: &Setup, memories: &[Arc<GuestMemory>]) -> Result<Option<Pagemend>, BenchError> {
    let cases = setup.cases.iter().zip(memories).enumerate();
    let mended: Vec<(usize, (&Case, &Arc<GuestMemory>))> = cases
        .filter(|(_, (case, _))| case.policy.is_watched())
        .collect();
    if mended.is_empty() {
        return Ok(None);
    }
    let refused: Arc<Mutex<Vec<Reason>>> = Arc::default();
    let sink = Arc::clone(&refused);
    let mut builder = Pagemend::builder()
        .demand_mend()
        .listen("bench", move |event| {
            if let Step::Done {
                action: Some(action),
                reasons,
                ..
            } = &event.step
                && *action != Action::Mend
            {
                let mut refused = sink.lock().unwrap_or_else(PoisonError::into_inner);
                refused.extend(reasons.iter().cloned());
            }
        });
    for (number, (_, memory)) in &mended {
        let region = RegionConfig::of(&number.to_string(), base(*number), Arc::clone(memory));
        builder =
            builder.region(region.map_err(BenchError::system("guest memory cannot be described"))?);
    }
    let pagemend = builder.start()?;
    let progress = Progress::new("mending", setup.mends());
    for (number, (case, _)) in &mended {
        for lost in &case.lost {
            let gpa = Gpa::new(base(*number).get() + lost);
            pagemend
                .emulated_errors()
                .inject(gpa, Cause::ActionOptional)?;
            progress.advance();
        }
    }
    // Nobody may touch memory that is not there.
    pagemend.settle();
    if pagemend.totals().mended != setup.mends() {
        let refused = refused.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons: Vec<String> = refused.iter().map(Reason::to_string).collect();
        return Err(BenchError::NotMended {
            why: reasons.join("; "),
        });
    }
    for (number, (case, memory)) in &mended {
        if case.policy == Policy::MendHeal {
            let all = GpaRange::new(base(*number), memory.len());
            heal(&pagemend, all.expect("cases lie far from each other"))?;
        }
    }
    Ok(Some(pagemend))
}

/// Has all threads work for so long; gives how many words they did in a microsecond together.
fn take_turn(
    words: &[AtomicU64],
    walkers: &mut [Walker],
    (pattern, access): (Pattern, Access),
    turn: Duration,
) -> Result<f64, BenchError> {
    let stop = AtomicBool::new(false);
    let start = Barrier::new(walkers.len() + 1);
    let (rate, wrong) = thread::scope(|scope| {
        let running: Vec<_> = walkers
            .iter_mut()
            .map(|walker| {
                scope.spawn(|| {
                    start.wait();
                    let start = Instant::now();
                    let work = walker.walk(words, pattern, access, &stop);
                    (work, start.elapsed().as_secs_f64() * 1e6)
                })
            })
            .collect();
        start.wait();
        thread::sleep(turn);
        stop.store(true, Ordering::Relaxed);
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .fold((0.0, 0), |(rate, wrong), (work, micros)| {
                (rate + work.words as f64 / micros, wrong + work.wrong)
            })
    });
    match wrong {
        0 => Ok(rate),
        wrong => Err(BenchError::Wrong { wrong }),
    }
}
