//! Compares taking and dropping an I/O lease on 4 KiB, where nothing is being mended, with locking
//! and unlocking a mutex that nobody else has, and with doing nothing: from one thread, and from two
//! threads at once on pages and mutexes of their own.
//!
//! Run it with `cargo bench -p pagemend-linux --bench lease`. It needs no huge pages and no
//! privilege.

#[path = "common/spread.rs"]
mod spread;

use std::hint::black_box;
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use pagemend_core::address::{Gpa, GpaRange};
use pagemend_linux::{GuestMemory, MemoryKind, Pagemend, RegionConfig};

use spread::Spread;

const GUEST: u64 = 256 << 20;
/// Bytes between what two threads use: their pages' counters share no cache line.
const APART: u64 = 128 << 20;
const ROUNDS: usize = 201;
const PER_ROUND: u64 = 20_000;

/// A mutex with a cache line of its own.
#[repr(align(128))]
struct Apart(Mutex<u64>);

/// How long `threads` take that do `operation` so many times each, all at once. It gets the
/// thread's number.
fn timed(threads: usize, times: u64, operation: impl Fn(usize) + Sync) -> Duration {
    let start = Barrier::new(threads);
    let run = |thread| {
        start.wait();
        let start = Instant::now();
        for _ in 0..times {
            operation(black_box(thread));
        }
        start.elapsed()
    };
    if threads == 1 {
        return run(0);
    }
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || run(thread)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("nothing in it panics"))
            .max()
            .unwrap_or_default()
    })
}

struct Rivals {
    pagemend: Pagemend,
    mutexes: [Apart; 2],
}

impl Rivals {
    fn lease(&self, threads: usize, times: u64) -> Duration {
        timed(threads, times, |thread| {
            let range = GpaRange::new(Gpa::new(thread as u64 * APART), 4096);
            let lease = self.pagemend.lease(range.expect("it does not wrap"));
            drop(black_box(lease.expect("it is guest memory")));
        })
    }

    fn mutex(&self, threads: usize, times: u64) -> Duration {
        timed(threads, times, |thread| {
            let mutex = &self.mutexes[thread].0;
            drop(black_box(
                mutex.lock().unwrap_or_else(PoisonError::into_inner),
            ));
        })
    }

    fn nothing(&self, threads: usize, times: u64) -> Duration {
        timed(threads, times, |thread| {
            black_box(thread);
        })
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(600))
        .sample_size(40)
        .without_plots()
        .configure_from_args();
    let memory = GuestMemory::new(MemoryKind::Shmem, GUEST).expect("256 MiB, not touched");
    let region = RegionConfig::of("ram", Gpa::new(0), Arc::new(memory)).expect("it has a file");
    let rivals = Rivals {
        pagemend: Pagemend::builder()
            .region(region)
            .start()
            .expect("the only mender"),
        mutexes: [const { Apart(Mutex::new(0)) }; 2],
    };
    for threads in [1, 2] {
        let mut group = criterion.benchmark_group(format!("threads={threads}"));
        group.bench_function(BenchmarkId::from_parameter("nothing"), |bencher| {
            bencher.iter_custom(|times| rivals.nothing(threads, times));
        });
        group.bench_function(BenchmarkId::from_parameter("mutex"), |bencher| {
            bencher.iter_custom(|times| rivals.mutex(threads, times));
        });
        group.bench_function(BenchmarkId::from_parameter("lease"), |bencher| {
            bencher.iter_custom(|times| rivals.lease(threads, times));
        });
        group.finish();

        // In turn, so that what else the machine does hits all of them alike.
        let nanos = |took: Duration| took.as_nanos() as f64 / PER_ROUND as f64;
        let (mut leases, mut mutexes, mut nothings) = (vec![], vec![], vec![]);
        for _ in 0..ROUNDS {
            leases.push(nanos(rivals.lease(threads, PER_ROUND)));
            mutexes.push(nanos(rivals.mutex(threads, PER_ROUND)));
            nothings.push(nanos(rivals.nothing(threads, PER_ROUND)));
        }
        println!(
            "a lease taken and dropped, threads: {threads}: {} x an uncontended mutex, {:.1} \
             ns more than nothing",
            Spread::of_ratios(&leases, &mutexes),
            Spread::of(
                leases
                    .iter()
                    .zip(&nothings)
                    .map(|(lease, nothing)| lease - nothing)
            ),
        );
    }
    criterion.final_summary();
}
