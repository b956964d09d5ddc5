//! Many errors at the same time: whether all are mended, and what those wait meanwhile that touch
//! healthy memory, a vCPU and a device.

use std::collections::BTreeSet;
use std::thread;
use std::time::Instant;

use oorandom::Rand64;
use pagemend::{Cause, FRAME_SIZE, Gpa, GpaRange, Inject};
use pagemend_vmm::Vm;
use pagemend_vmm::guests::touch;

use super::Method;
use super::sample::{VCPUS, check, config, fill, own, run};
use crate::bench::error::BenchError;
use crate::bench::huge::HugePages;
use crate::bench::room::Room;
use crate::bench::warm::Stock;
use crate::pool::GrownPool;

/// Guest memory that the errors are in, in bytes, where there is so much.
const MOST: u64 = 4 << 30;
/// Where there is not.
const LEAST: u64 = 1 << 30;

/// What came of it.
pub(super) struct AtOnce {
    /// Guest memory that the errors are in, in bytes.
    pub(super) memory: u64,
    pub(super) errors: u64,
    /// Huge pages that were hit.
    pub(super) pages: u64,
    /// Microseconds from before each of the vCPU's touches to after it, and of the device's.
    pub(super) vcpu: Vec<f64>,
    pub(super) device: Vec<f64>,
    /// Frames that are lost when all is done.
    pub(super) lost_frames: u64,
}

/// Memory to have the errors in, in bytes, as much as can be had, with all that it takes.
pub(super) fn room(huge: HugePages) -> Result<(u64, Option<GrownPool>), BenchError> {
    let mut memory = MOST;
    loop {
        match needs(huge, memory).get() {
            Ok(pool) => return Ok((memory, pool)),
            Err(BenchError::TooLarge { .. } | BenchError::PoolStays(_)) if memory > LEAST => {
                memory /= 2;
            }
            Err(error) => return Err(error),
        }
    }
}

/// What the guest takes, and what its pages are replaced with, from a pool and not.
fn needs(huge: HugePages, memory: u64) -> Room {
    Room {
        guest: Some((huge.size(), own(huge) + memory)),
        other: match huge {
            HugePages::Two => memory,
            HugePages::Gigantic => 2 * memory,
        },
    }
}

/// Frames that fail, and healthy words in the same huge pages.
struct Hits {
    lost: BTreeSet<Gpa>,
    pages: BTreeSet<Gpa>,
    words: Vec<Gpa>,
}

/// Runs a guest in which so many frames have failed that nobody has touched yet. Its first vCPU and
/// a device then touch the pages around them, as often as there are errors each.
pub(super) fn take(
    huge: HugePages,
    memory: u64,
    errors: u64,
    random: &mut Rand64,
) -> Result<AtOnce, BenchError> {
    let stock = Stock::get(huge, memory.min(errors * huge.bytes()));
    let vm = Vm::new(config(Some(Method::OnDemand), huge, own(huge) + memory))?;
    let ranges = failing(&vm, huge);
    let hits = choose(&ranges, huge, (errors, memory), random);
    for range in &ranges {
        fill(&vm, *range)?;
    }
    stock.warm()?;
    let (first, second) = hits.words.split_at(errors as usize);
    touch::set(vm.ram(), VCPUS, Some(0), first)?;
    let emulated = vm.pagemend().emulated_errors();
    for gpa in &hits.lost {
        emulated.inject(*gpa, Cause::ActionRequired)?;
    }
    let device = thread::scope(|scope| {
        let device = scope.spawn(|| read_all(&vm, second));
        let ran = run(&vm, |gpa| {
            Err(BenchError::NotMended {
                why: format!("the guest stopped at {gpa}"),
            })
        });
        let device = device
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ran.and(device)
    })?;
    let touches = touch::touches(vm.ram(), first.len())?;
    check(&touches, first.len())?;
    let lost_frames = vm.pagemend().with_ledger(|ledger| ledger.len());
    if lost_frames != errors {
        return Err(BenchError::NotMended {
            why: format!("{errors} errors have cost {lost_frames} frames"),
        });
    }
    let khz = f64::from(vm.tsc_khz());
    let micros = |ticks: u64| ticks as f64 / khz * 1e3;
    Ok(AtOnce {
        memory,
        errors,
        pages: hits.pages.len() as u64,
        vcpu: touches.iter().map(|touch| micros(touch.ticks)).collect(),
        device,
        lost_frames,
    })
}

/// The guest's memory without its own, on both sides of the hole of a PC's address space.
fn failing(vm: &Vm, huge: HugePages) -> Vec<GpaRange> {
    let memory = vm.pagemend().segments().into_iter();
    memory
        .filter_map(|segment| {
            let start = segment.gpa.start().get().max(own(huge));
            let len = segment.gpa.end().get().checked_sub(start)?;
            GpaRange::new(Gpa::new(start), len)
        })
        .collect()
}

fn choose(
    ranges: &[GpaRange],
    huge: HugePages,
    (errors, memory): (u64, u64),
    random: &mut Rand64,
) -> Hits {
    let mut lost = BTreeSet::new();
    while (lost.len() as u64) < errors {
        let mut frame = random.rand_range(0..memory / FRAME_SIZE) * FRAME_SIZE;
        for range in ranges {
            if frame < range.len() {
                lost.insert(Gpa::new(range.start().get() + frame));
                break;
            }
            frame -= range.len();
        }
    }
    // One in the page of each lost frame, twice over and in no order: no page is left out.
    let mut words: Vec<Gpa> = vec![];
    for _ in 0..2 {
        let mut once: Vec<Gpa> = lost
            .iter()
            .map(|frame| healthy(*frame, huge, &lost, random))
            .collect();
        for last in (1..once.len()).rev() {
            once.swap(last, random.rand_range(0..last as u64 + 1) as usize);
        }
        words.append(&mut once);
    }
    Hits {
        pages: lost.iter().map(|gpa| gpa.align_down(huge.size())).collect(),
        lost,
        words,
    }
}

/// A word of the page around a lost frame that is in no lost frame.
fn healthy(frame: Gpa, huge: HugePages, lost: &BTreeSet<Gpa>, random: &mut Rand64) -> Gpa {
    loop {
        let word = random.rand_range(0..huge.bytes() / 8) * 8;
        let word = Gpa::new(frame.align_down(huge.size()).get() + word);
        if !lost.contains(&word.frame()) {
            return word;
        }
    }
}

/// Reads words as a device model does, and gives what each took, in microseconds.
fn read_all(vm: &Vm, words: &[Gpa]) -> Result<Vec<f64>, BenchError> {
    words
        .iter()
        .map(|gpa| {
            let mut value = [0; 8];
            let start = Instant::now();
            vm.ram().read(*gpa, &mut value)?;
            let took = start.elapsed().as_secs_f64() * 1e6;
            match u64::from_le_bytes(value) == gpa.get() {
                true => Ok(took),
                false => Err(BenchError::Wrong { wrong: 1 }),
            }
        })
        .collect()
}
