//! Compares what a thread waits for that touches a healthy word of a failed 1 GiB page, on demand and
//! eagerly, with the time to copy 2 MiB; and the time until all of the page is back with the time to
//! copy 1 GiB. Then, for a thread that touches none of it, the longest gaps while the page comes back
//! and while nothing happens. All in turn, in one run.
//!
//! Run it with `cargo bench -p pagemend-linux --bench on_demand`. It needs a page of 1 GiB and 513 of
//! 2 MiB, or root to have them. The errors are emulated: reads do not pay the kernel's look at the rest
//! of a page that has really failed.

#[path = "common/pool.rs"]
mod pool;
#[path = "common/spread.rs"]
mod spread;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use pagemend_core::address::{Gpa, PageSize};
use pagemend_core::event::{Event, Step};
use pagemend_core::ledger::Cause;
use pagemend_core::policy::Filling;
use pagemend_linux::{GuestMemory, Inject, MemoryKind, Pagemend, RegionConfig};

use spread::Spread;

const GIB: usize = 1 << 30;
const STRETCH: usize = 2 << 20;
const ROUNDS: usize = 9;
/// What is lost, and the first word that is touched: far from one another.
const LOST: usize = 700 * STRETCH / 2 + 0x3000;
const TOUCHED: usize = 100 * STRETCH + 0x140;

/// A page of 1 GiB that can fail once.
struct Page {
    memory: Arc<GuestMemory>,
    pagemend: Pagemend,
    /// Until the first fault is answered, and when all of the page is there.
    events: mpsc::Receiver<Event>,
}

fn word(offset: usize) -> u64 {
    offset as u64 | 1 << 63
}

impl Page {
    fn new(filling: Filling) -> Self {
        let memory = GuestMemory::new(MemoryKind::Hugetlb(PageSize::SIZE_1G), GIB as u64);
        let memory = Arc::new(memory.expect("the pool was grown for it"));
        for offset in (0..GIB).step_by(64) {
            // SAFETY: a word of memory that nobody else knows yet.
            unsafe {
                memory
                    .as_ptr()
                    .add(offset)
                    .cast::<u64>()
                    .write(word(offset))
            };
        }
        let (tell, events) = mpsc::channel();
        let mut answered = false;
        let region = RegionConfig::of("ram", Gpa::new(0), Arc::clone(&memory));
        let pagemend = Pagemend::builder()
            .region(region.expect("it has a file").filling(filling))
            .demand_mend()
            .listen("bench", move |event| {
                if !answered || matches!(event.step, Step::Complete { .. }) {
                    // At the end nobody listens any more.
                    let _ = tell.send(event.clone());
                }
                answered |= matches!(event.step, Step::Done { .. });
            })
            .start()
            .expect("the only mender");
        Self {
            memory,
            pagemend,
            events,
        }
    }

    fn fail(&self) {
        let injector = self.pagemend.emulated_errors();
        injector
            .inject(Gpa::new(LOST as u64), Cause::ActionRequired)
            .expect("it has not failed yet");
    }

    /// Loads a word, and says how long that took.
    fn touch(&self, offset: usize) -> Duration {
        let at = self.memory.as_ptr().wrapping_add(offset).cast::<u64>();
        let start = Instant::now();
        // SAFETY: a word of guest memory.
        let value = unsafe { at.read_volatile() };
        let took = start.elapsed();
        assert_eq!(value, word(offset));
        took
    }

    /// What each step took until the first fault was answered, in seconds.
    fn steps(&self) -> Vec<(&'static str, f64)> {
        let steps = self.events.iter().map_while(|event| {
            let name = match event.step {
                Step::Cover => "cover",
                Step::Fill { .. } => "fill 2 MiB",
                Step::Done { .. } => return None,
                _ => "examine, plan, claim",
            };
            Some((name, event.duration_ns as f64 / 1e9))
        });
        steps.collect()
    }

    fn is_complete(&self) -> bool {
        let mut events = self.events.try_iter();
        events.any(|event| matches!(event.step, Step::Complete { .. }))
    }

    fn wait_until_complete(&self) {
        let mut events = self.events.iter();
        assert!(events.any(|event| matches!(event.step, Step::Complete { .. })));
    }
}

/// Two pieces of memory to copy between, none of which is in the caches.
struct Plain {
    memory: GuestMemory,
    next: usize,
}

impl Plain {
    /// More than the caches hold.
    const LEN: usize = 256 << 20;

    fn new() -> Self {
        let kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
        let memory = GuestMemory::new(kind, 2 * Self::LEN as u64);
        let memory = memory.expect("the pool was grown for it");
        // SAFETY: memory that nobody else knows.
        unsafe { memory.as_ptr().write_bytes(0x5a, 2 * Self::LEN) };
        Self { memory, next: 0 }
    }

    fn memcpy(&mut self, len: usize) -> Duration {
        if self.next + len > Self::LEN {
            self.next = 0;
        }
        let from = self.memory.as_ptr().wrapping_add(self.next);
        let to = from.wrapping_add(Self::LEN);
        self.next += len;
        let start = Instant::now();
        // SAFETY: two pieces that lie apart.
        unsafe { black_box(from).copy_to_nonoverlapping(black_box(to), len) };
        start.elapsed()
    }
}

/// The touch that finds the failure, those that had to wait while the rest came back, and how long all
/// of it took where nobody touched anything else.
#[derive(Default)]
struct Waits {
    first: Vec<f64>,
    later: Vec<f64>,
    whole: Vec<f64>,
    steps: BTreeMap<&'static str, Vec<f64>>,
}

fn first_touch(filling: Filling) -> f64 {
    let page = Page::new(filling);
    page.fail();
    page.touch(TOUCHED).as_secs_f64()
}

impl Waits {
    fn measure(&mut self) {
        let page = Page::new(Filling::OnDemand);
        page.fail();
        let took = page.touch(TOUCHED).as_secs_f64();
        self.first.push(took);
        let mut steps = BTreeMap::new();
        for (name, seconds) in page.steps() {
            *steps.entry(name).or_insert(0.0) += seconds;
        }
        let mender: f64 = steps.values().sum();
        steps.insert("signal, wake-ups", took - mender);
        for (name, seconds) in steps {
            self.steps.entry(name).or_default().push(seconds);
        }
        // Stretch after stretch, in an order that the background does not have. What is back already
        // takes no time, and is no wait.
        for number in (0..GIB / STRETCH).map(|n| n * 197 % (GIB / STRETCH)) {
            if page.is_complete() {
                break;
            }
            let took = page.touch(number * STRETCH + 0x140);
            if took > Duration::from_micros(20) {
                self.later.push(took.as_secs_f64());
            }
        }
        drop(page);
        let page = Page::new(Filling::OnDemand);
        page.fail();
        let started = Instant::now();
        page.touch(TOUCHED);
        page.wait_until_complete();
        self.whole.push(started.elapsed().as_secs_f64());
    }
}

/// The gaps of a thread that does nothing but look at the clock: the longest of each ten
/// milliseconds, for as long as `while_` takes.
fn gaps(while_: impl FnOnce()) -> Vec<f64> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let bystander = scope.spawn(|| {
            let mut gaps = vec![];
            let (mut window, mut last, mut longest) = (Instant::now(), Instant::now(), 0.0f64);
            while !stop.load(Ordering::Relaxed) {
                let now = Instant::now();
                longest = longest.max((now - last).as_secs_f64());
                last = now;
                if now - window > Duration::from_millis(10) {
                    gaps.push(longest);
                    (window, longest) = (now, 0.0);
                }
            }
            gaps
        });
        while_();
        stop.store(true, Ordering::Relaxed);
        bystander.join().expect("it only looks at the clock")
    })
}

/// `p50 p99 max`.
fn tail(samples: &[f64]) -> [f64; 3] {
    let mut samples = samples.to_vec();
    samples.sort_by(f64::total_cmp);
    let at = |percent: usize| samples[(samples.len() - 1) * percent / 100];
    [at(50), at(99), at(100)]
}

fn print_tail(what: &str, samples: &[f64], unit: f64) {
    if samples.is_empty() {
        println!("  {what:<46} none");
        return;
    }
    let [p50, p99, max] = tail(samples);
    println!(
        "  {what:<46} p50 {:6.2}  p99 {:6.2}  max {:6.2}   ({} samples, p50 {:.0} µs)",
        p50 / unit,
        p99 / unit,
        max / unit,
        samples.len(),
        p50 * 1e6
    );
}

fn main() {
    let Some(gigantic) = pool::need(PageSize::SIZE_1G, 1) else {
        return;
    };
    let Some(huge) = pool::need(PageSize::SIZE_2M, 513 + 256) else {
        return;
    };
    let mut plain = Plain::new();
    let (mut copies, mut gib, mut eager) = (vec![], vec![], vec![]);
    let mut waits = Waits::default();
    let (mut while_mending, mut while_idle) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        copies.extend((0..20).map(|_| plain.memcpy(STRETCH).as_secs_f64()));
        gib.push(
            (0..4)
                .map(|_| plain.memcpy(Plain::LEN).as_secs_f64())
                .sum::<f64>(),
        );
        waits.measure();
        eager.push(first_touch(Filling::Eager));

        let page = Page::new(Filling::OnDemand);
        page.fail();
        let mut took = Duration::ZERO;
        while_mending.extend(gaps(|| {
            let started = Instant::now();
            page.touch(TOUCHED);
            page.wait_until_complete();
            took = started.elapsed();
        }));
        while_idle.extend(gaps(|| thread::sleep(took)));
    }
    let copy = tail(&copies)[0];
    println!(
        "a failed 1 GiB page; in units of one memcpy of 2 MiB, {:.0} µs:",
        copy * 1e6
    );
    print_tail("memcpy of 2 MiB", &copies, copy);
    print_tail(
        "on demand: the touch that finds the failure",
        &waits.first,
        copy,
    );
    for (step, seconds) in &waits.steps {
        print_tail(&format!("  of it {step}"), seconds, copy);
    }
    print_tail(
        "on demand: touches while the rest comes back",
        &waits.later,
        copy,
    );
    print_tail("eager: the touch", &eager, copy);
    let ratio = Spread::of_ratios(&gib, &waits.whole);
    println!("all of it back on demand, untouched: {ratio} x the bandwidth of memcpy");
    let ratio = Spread::of_ratios(&eager, &waits.first);
    println!("eager waits {ratio:.0} x as long as on demand");
    println!("longest gap in 10 ms of a thread that touches none of it, in the same unit:");
    print_tail("while a page comes back", &while_mending, copy);
    print_tail("while nothing happens", &while_idle, copy);
    drop((plain, gigantic, huge));
}
