//! Compares a loop that checks and writes every word of hugetlb memory while a mender looks after
//! that memory with the same loop without one. There are no errors: what is measured is what the
//! library costs until there is one, which should be nothing.
//!
//! Run it with `cargo bench -p pagemend-linux --bench steady`. It needs a pool of 2 MiB pages, or
//! root to grow one.

#[path = "common/pool.rs"]
mod pool;
#[path = "common/spread.rs"]
mod spread;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use pagemend_core::address::{Gpa, PageSize};
use pagemend_linux::{GuestMemory, MemoryKind, Pagemend, RegionConfig};

use spread::Spread;

const GUEST: u64 = 64 << 20;
const ROUNDS: usize = 151;

struct Guest {
    memory: Arc<GuestMemory>,
    /// How often every word has been written.
    pass: u64,
}

impl Guest {
    /// Checks every word and writes it for the next pass.
    fn check_and_write(&mut self) -> Duration {
        let words = self.memory.as_ptr().cast::<u64>();
        let start = Instant::now();
        for index in 0..GUEST as usize / 8 {
            let expected = index as u64 ^ self.pass;
            // SAFETY: a word of guest memory, which only this thread uses.
            let found = unsafe { words.add(index).read_volatile() };
            assert_eq!(found, expected);
            // SAFETY: as above.
            unsafe {
                words
                    .add(index)
                    .write_volatile(index as u64 ^ (self.pass + 1))
            };
        }
        self.pass += 1;
        start.elapsed()
    }

    fn mender(&self) -> Pagemend {
        let region = RegionConfig::of("ram", Gpa::new(0), Arc::clone(&self.memory));
        let builder = Pagemend::builder().region(region.expect("it has a file"));
        builder.start().expect("the only mender")
    }

    fn with_mender(&mut self) -> Duration {
        let mender = self.mender();
        let took = self.check_and_write();
        drop(mender);
        took
    }
}

/// In turn, and each of the two first every other time.
fn ratios(guest: &mut Guest) {
    let (mut with, mut without) = (vec![], vec![]);
    for round in 0..ROUNDS {
        if round % 2 == 0 {
            without.push(guest.check_and_write().as_secs_f64());
        }
        with.push(guest.with_mender().as_secs_f64());
        if round % 2 == 1 {
            without.push(guest.check_and_write().as_secs_f64());
        }
    }
    let gib = GUEST as f64 / f64::from(1 << 30);
    let throughput = |times: &[f64]| Spread::of(times.iter().map(|time| gib / time));
    println!(
        "check and write, GiB/s: {} with a mender, {} without",
        throughput(&with),
        throughput(&without)
    );
    println!(
        "check and write with a mender and no error: {:.3} x without",
        Spread::of_ratios(&with, &without)
    );
}

fn main() {
    let pages = GUEST / PageSize::SIZE_2M.bytes();
    let Some(grown) = pool::need(PageSize::SIZE_2M, pages) else {
        return;
    };
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    let memory = GuestMemory::new(MemoryKind::Hugetlb(PageSize::SIZE_2M), GUEST);
    let memory = Arc::new(memory.expect("the pool was grown for it"));
    let words = memory.as_ptr().cast::<u64>();
    for index in 0..GUEST as usize / 8 {
        // SAFETY: a word of memory that nobody else knows yet.
        unsafe { words.add(index).write(index as u64) };
    }
    let mut guest = Guest { memory, pass: 0 };
    let mut group = criterion.benchmark_group("check and write");
    group.throughput(Throughput::Bytes(GUEST));
    group.bench_function("without a mender", |bencher| {
        bencher.iter_custom(|passes| (0..passes).map(|_| guest.check_and_write()).sum());
    });
    let mender = guest.mender();
    group.bench_function("with a mender", |bencher| {
        bencher.iter_custom(|passes| (0..passes).map(|_| guest.check_and_write()).sum());
    });
    drop(mender);
    group.finish();
    ratios(&mut guest);
    drop(guest);
    drop(grown);
    criterion.final_summary();
}
