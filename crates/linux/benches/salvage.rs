//! Compares reading all of a 2 MiB page through its file in one read with reads of 64 KiB and of
//! 4 KiB, and with `memcpy` of as much: what salvage does with a page, by the same system call on
//! the same kind of file.
//!
//! Run it with `cargo bench -p pagemend-linux --bench salvage`. It needs a pool of 2 MiB pages, or
//! root to grow one. The pages are healthy: on a poisoned one the kernel looks at all the rest of the
//! page at each read, which makes small reads worse than what is measured here.

#[path = "common/pool.rs"]
mod pool;
#[path = "common/spread.rs"]
mod spread;

use std::hint::black_box;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use pagemend_core::address::PageSize;
use pagemend_linux::{GuestMemory, MemoryKind};

use spread::Spread;

const PAGE: usize = 2 << 20;
const READS: [usize; 3] = [4 << 10, 64 << 10, PAGE];
const ROUNDS: usize = 301;

/// A page to read, and one to read to.
struct Pages(GuestMemory);

impl Pages {
    fn new() -> Self {
        let memory = GuestMemory::new(MemoryKind::Hugetlb(PageSize::SIZE_2M), 2 * PAGE as u64);
        let memory = memory.expect("the pool was grown for it");
        // SAFETY: memory that nobody else knows.
        unsafe { memory.as_ptr().write_bytes(0x5a, 2 * PAGE) };
        Self(memory)
    }

    fn to(&self) -> *mut u8 {
        self.0.as_ptr().wrapping_add(PAGE)
    }

    fn read(&self, size: usize) {
        let file = self.0.file().expect("a memfd").as_raw_fd();
        for offset in (0..PAGE).step_by(size) {
            // SAFETY: `size` bytes of the second page, which nobody refers to.
            let read = unsafe {
                let to = self.to().add(offset).cast();
                libc::pread(file, to, size, offset as libc::off_t)
            };
            assert_eq!(read, size as isize);
        }
    }

    fn memcpy(&self) {
        // SAFETY: two pages that lie apart.
        unsafe {
            black_box(self.0.as_ptr()).copy_to_nonoverlapping(black_box(self.to()), PAGE);
        }
    }
}

/// In turn, so that what else the machine does hits all of them alike.
fn ratios(pages: &Pages) {
    let timed = |copy: &dyn Fn()| {
        let start = Instant::now();
        copy();
        start.elapsed().as_secs_f64()
    };
    let mut copies = vec![];
    let mut reads = READS.map(|_| vec![]);
    for _ in 0..ROUNDS {
        copies.push(timed(&|| pages.memcpy()));
        for (size, taken) in READS.into_iter().zip(&mut reads) {
            taken.push(timed(&|| pages.read(size)));
        }
    }
    let [small, .., whole] = &reads;
    println!(
        "salvage of 2 MiB (healthy: without the kernel's scan of a poisoned page at each read): \
         4 KiB reads {} x one read; one read {} x memcpy",
        Spread::of_ratios(small, whole),
        Spread::of_ratios(whole, &copies),
    );
}

fn main() {
    let Some(grown) = pool::need(PageSize::SIZE_2M, 2) else {
        return;
    };
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(800))
        .sample_size(40)
        .without_plots()
        .configure_from_args();
    let pages = Pages::new();
    let mut group = criterion.benchmark_group("read a 2 MiB page");
    group.throughput(Throughput::Bytes(PAGE as u64));
    group.bench_function("memcpy", |bencher| bencher.iter(|| pages.memcpy()));
    for size in READS {
        group.bench_function(BenchmarkId::new("reads of", size), |bencher| {
            bencher.iter(|| pages.read(size));
        });
    }
    group.finish();
    ratios(&pages);
    drop(pages);
    drop(grown);
    criterion.final_summary();
}
