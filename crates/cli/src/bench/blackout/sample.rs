//! One guest: built, filled, made to fail, run to its end, and what it has seen.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use oorandom::Rand64;
use pagemend::{
    Action, AddressRange, Cause, Event, FRAME_SIZE, Filling, Gpa, GpaRange, GuestMemory, Inject,
    Policy, Step,
};
use pagemend_vmm::guests::touch::{self, Touch};
use pagemend_vmm::seccomp::Seccomp;
use pagemend_vmm::{
    Console, CpuModel, End, FailureAction, MemoryConfig, Notify, Payload, Untold, Vm, VmConfig,
    What,
};

use super::Method;
use super::cases::{Lot, Samples};
use super::copies::Copies;
use super::parts::Accounts;
use crate::bench::error::BenchError;
use crate::bench::huge::HugePages;
use crate::bench::pieces::Piece;
use crate::bench::room::Room;
use crate::bench::warm::Stock;

pub(super) const VCPUS: u8 = 2;
/// What is written at once when a guest is filled, in bytes.
const FILL: u64 = 2 << 20;

/// What all guests of a page size have in common.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) huge: HugePages,
    /// Pages that fail in one guest.
    pub(super) pages: u64,
    /// How long the second vCPU is watched from each touch on: longer than a mend takes, so that
    /// what happens after the touch is seen too, and the same without an error.
    pub(super) watched: Duration,
}

impl Shape {
    pub(super) fn new(huge: HugePages, samples: u64) -> Self {
        let (most, watched) = match huge {
            HugePages::Two => (8, 10),
            HugePages::Gigantic => (1, 1000),
        };
        Self {
            huge,
            pages: most.min(samples),
            watched: Duration::from_millis(watched),
        }
    }

    pub(super) fn what(&self) -> &'static str {
        match self.huge {
            HugePages::Two => "guests on pages of 2 MiB",
            HugePages::Gigantic => "guests on pages of 1 GiB",
        }
    }

    /// Where the pages begin that fail: before are the guest's own.
    fn own(&self) -> u64 {
        own(self.huge)
    }

    fn guest_bytes(&self) -> u64 {
        self.own() + self.pages * self.huge.bytes()
    }

    /// The pages that fail, which lie below the hole of a PC's address space.
    fn failing(&self) -> GpaRange {
        let range = AddressRange::new(Gpa::new(self.own()), self.pages * self.huge.bytes());
        range.expect("a shape has pages")
    }

    /// What a guest takes, and what its pages are replaced with: by a mend maybe from a pool, by
    /// others not.
    pub(super) fn room(&self) -> Room {
        Room {
            guest: Some((self.huge.size(), self.guest_bytes())),
            other: 2 * self.pages * self.huge.bytes(),
        }
    }

    /// What a guest's pages are mended with.
    pub(super) fn stock(&self) -> Stock {
        Stock::get(self.huge, self.pages * self.huge.bytes())
    }
}

/// Bytes that a guest has for itself.
pub(super) fn own(huge: HugePages) -> u64 {
    huge.bytes().max(16 << 20)
}

/// Which frame of a page fails, and which word of another is touched.
struct Hit {
    lost: Gpa,
    touched: Gpa,
}

fn choose(shape: &Shape, random: &mut Rand64) -> Vec<Hit> {
    let frames = shape.huge.size().frames();
    let words = FRAME_SIZE / 8;
    let pages = (0..shape.pages).map(|page| shape.own() + page * shape.huge.bytes());
    pages
        .map(|page| {
            let lost = random.rand_range(0..frames);
            let other = (lost + random.rand_range(1..frames)) % frames;
            Hit {
                lost: Gpa::new(page + lost * FRAME_SIZE),
                touched: Gpa::new(page + other * FRAME_SIZE + random.rand_range(0..words) * 8),
            }
        })
        .collect()
}

/// Runs a guest of its own whose pages meet their `lot`. Right before it runs, some copies are made.
pub(super) fn take(
    lot: Lot,
    shape: &Shape,
    copies: &mut Copies,
    random: &mut Rand64,
) -> Result<Samples, BenchError> {
    let method = lot.method();
    let memory = Arc::new(GuestMemory::new(shape.huge.kind(), shape.guest_bytes())?);
    let vm = Vm::with_memory(
        config(method, shape.huge, shape.guest_bytes()),
        vec![Arc::clone(&memory)],
    )?;
    copies.warm();
    fill(&vm, shape.failing())?;
    let hits = choose(shape, random);
    let mends = method.is_some_and(Method::mends);
    let healthy = hits.iter().map(|hit| hit.touched);
    let lost = hits.iter().map(|hit| hit.lost).filter(|_| mends);
    let addresses: Vec<Gpa> = healthy.chain(lost).collect();
    touch::set(vm.ram(), VCPUS, mends.then_some(0), &addresses)?;
    let khz = u64::from(vm.tsc_khz());
    touch::watch(vm.ram(), hits.len(), khz * shape.watched.as_millis() as u64)?;
    if method.is_some() {
        let errors = vm.pagemend().emulated_errors();
        for hit in &hits {
            errors.inject(hit.lost, Cause::ActionRequired)?;
        }
    }
    copies.take()?;
    let mut splitting = vec![];
    let on_the_way = thread::scope(|scope| {
        let copies = &*copies;
        let copier = (lot == Lot::Copying).then(|| scope.spawn(|| copy_beside(copies, shape)));
        let ran = run(&vm, |touched| {
            let page = touched.align_down(shape.huge.size());
            let start = Instant::now();
            memory
                .split(page.get(), shape.huge.bytes())
                .map_err(BenchError::system("copying to pages of 4 KiB"))?;
            splitting.push(start.elapsed().as_secs_f64() * 1e6);
            Ok(())
        });
        if let Some(copier) = copier {
            let copied = copier
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            copied.map_err(BenchError::system("copying beside a guest"))?;
        }
        ran
    })?;
    let touches = touch::touches(vm.ram(), addresses.len())?;
    check(&touches, hits.len())?;
    let (read, told) = touches.split_at(hits.len());
    let micros = |ticks: u64| ticks as f64 / khz as f64 * 1e3;
    let touched: Vec<f64> = read.iter().map(|touch| micros(touch.ticks)).collect();
    let (waits, streams) = on_the_way.accounts.close(&touched);
    Ok(Samples {
        touched,
        waits,
        streams,
        bystander: read
            .iter()
            .filter_map(|touch| touch.bystander.map(micros))
            .collect(),
        told: told.iter().map(|touch| micros(touch.ticks)).collect(),
        splitting,
        // A page that is mended on demand is there when that has been said of it; what is mended
        // at once, when the fault was answered.
        completed: match on_the_way.completed.as_slice() {
            [] => on_the_way.mended,
            _ => on_the_way.completed,
        },
        pieces: match mends {
            true => pieces(&vm, shape),
            false => vec![],
        },
    })
}

/// Copies what a mend of each page would, for each in the time for which the other vCPU is watched.
fn copy_beside(copies: &Copies, shape: &Shape) -> io::Result<()> {
    (0..shape.pages).try_for_each(|_| {
        let start = Instant::now();
        copies.stand_in(shape.huge.bytes())?;
        thread::sleep(shape.watched.saturating_sub(start.elapsed()));
        Ok(())
    })
}

pub(super) fn config(method: Option<Method>, huge: HugePages, bytes: u64) -> VmConfig {
    VmConfig {
        memory: MemoryConfig {
            bytes,
            kind: huge.kind(),
            // What has been proposed does not mend: the machine stops, and the page is replaced
            // behind pagemend's back.
            policy: match method {
                Some(Method::Rfc) => Policy::Abandon,
                _ => Policy::Mend,
            },
            filling: match method {
                Some(Method::Eager) => Filling::Eager,
                _ => Filling::OnDemand,
            },
            heal: pagemend::Heal::Never,
        },
        vcpus: VCPUS,
        cpu: CpuModel::Host,
        payload: Payload::Flat(touch::code()),
        console: Console::Off,
        channel: None,
        untold: Untold::Pause,
        early: false,
        seccomp: Seccomp::On,
        notify: Notify::Mce,
    }
}

/// Gives the pages that will fail something to be saved: each word holds its address.
pub(super) fn fill(vm: &Vm, failing: GpaRange) -> Result<(), BenchError> {
    let mut bytes = vec![0; FILL as usize];
    for start in (failing.start().get()..failing.end().get()).step_by(FILL as usize) {
        for (word, at) in bytes.chunks_exact_mut(8).zip((start..).step_by(8)) {
            word.copy_from_slice(&at.to_le_bytes());
        }
        vm.ram().write(Gpa::new(start), &bytes)?;
    }
    Ok(())
}

/// What was done while the guest ran: how long it took, in microseconds.
#[derive(Default)]
pub(super) struct OnTheWay {
    /// Answering a fault by a mend.
    pub(super) mended: Vec<f64>,
    /// Mending all of a page on demand.
    pub(super) completed: Vec<f64>,
    /// Of both, step by step.
    pub(super) accounts: Accounts,
}

impl OnTheWay {
    fn note(&mut self, event: &Event) {
        self.accounts.add(event);
        match event.step {
            Step::Done {
                action: Some(Action::Mend),
                total_ns,
                ..
            } => self.mended.push(total_ns as f64 / 1e3),
            Step::Complete { total_ns, .. } => self.completed.push(total_ns as f64 / 1e3),
            _ => {}
        }
    }
}

/// Runs the machine to its end, and waits until all that failed is mended. Whenever it has stopped at
/// a page that was given up, has the page replaced by `split` and lets it go on.
pub(super) fn run(
    vm: &Vm,
    mut split: impl FnMut(Gpa) -> Result<(), BenchError>,
) -> Result<OnTheWay, BenchError> {
    thread::scope(|scope| {
        let events = vm.events().subscribe();
        let end = scope.spawn(|| vm.run_to_the_end());
        let mut seen = OnTheWay::default();
        let mut touched = None;
        let mut follow = || -> Result<(), BenchError> {
            vm.resume()?;
            for event in &events {
                match &event.what {
                    What::MemoryFailure {
                        action: FailureAction::Fatal,
                        gpa,
                        ..
                    } => touched = Some(*gpa),
                    What::Mender { detail } => seen.note(detail),
                    What::Pause { .. } => {
                        split(touched.take().ok_or_else(|| {
                            BenchError::Guest("it stopped, and not at failed memory".to_owned())
                        })?)?;
                        vm.resume()?;
                    }
                    What::Shutdown { .. } => break,
                    _ => {}
                }
            }
            Ok(())
        };
        let followed = follow();
        if followed.is_err() {
            vm.shut_down();
        }
        let end = end
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        followed?;
        // A page may still be coming back.
        vm.pagemend().settle();
        for event in events.try_iter() {
            if let What::Mender { detail } = &event.what {
                seen.note(detail);
            }
        }
        match end {
            End::Off => Ok(seen),
            End::Crash(reason) => Err(BenchError::Guest(reason)),
        }
    })
}

/// The first `healthy` were to be read, and hold their own address; of the others the guest was to
/// be told.
pub(super) fn check(touches: &[Touch], healthy: usize) -> Result<(), BenchError> {
    let right = |(number, touch): &(usize, &Touch)| match *number < healthy {
        true => touch.value == Some(touch.gpa.get()),
        false => touch.told == Some(touch.gpa),
    };
    match touches
        .iter()
        .enumerate()
        .filter(|touch| !right(touch))
        .count()
    {
        0 => Ok(()),
        wrong => Err(BenchError::Wrong {
            wrong: wrong as u64,
        }),
    }
}

fn pieces(vm: &Vm, shape: &Shape) -> Vec<Piece> {
    let segments = vm.pagemend().segments().into_iter();
    Piece::of(segments.filter(|segment| segment.gpa.start().get() >= shape.own()))
}
