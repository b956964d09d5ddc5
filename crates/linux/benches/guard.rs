//! What the guard costs on healthy memory: guarded copies against `memcpy`, and guest memory behind
//! the guard against vm-memory's stock region. Compare within a group, or read the ratios, which
//! hold on a busy machine too.

use std::hint::black_box;
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pagemend_core::address::{Gpa, GpaRange, Hva};
use pagemend_linux::guard::{GuardedMemory, GuardedRegion, GuestRegion, try_copy, try_load};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionCollection};

const SIZES: [usize; 5] = [64, 512, 4 << 10, 64 << 10, 2 << 20];
const GUEST: usize = 4 << 20;

/// Populated memory, page-aligned, for the life of the process.
fn map(len: usize) -> *mut u8 {
    // SAFETY: a mapping somewhere free.
    let memory = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        libc::mmap(null_mut(), len, access, flags, -1, 0)
    };
    assert_ne!(memory, libc::MAP_FAILED);
    memory.cast()
}

fn copies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy");
    let (from, to) = (map(2 << 20), map(2 << 20));
    for len in SIZES {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("memcpy", len), |bencher| {
            bencher.iter(|| {
                // SAFETY: both mappings hold `len` bytes, and they are apart.
                unsafe { black_box(from).copy_to_nonoverlapping(black_box(to), black_box(len)) }
            });
        });
        group.bench_function(BenchmarkId::new("guarded", len), |bencher| {
            bencher.iter(|| {
                // SAFETY: both mappings hold `len` bytes.
                unsafe { try_copy(black_box(to), black_box(from), black_box(len)) }
            });
        });
    }
    group.finish();
}

/// Ratios that a busy machine leaves alone: both sides in turn, a fraction of a millisecond each,
/// and the median of the rounds.
fn ratios(_: &mut Criterion) {
    let (from, to) = (map(2 << 20), map(2 << 20));
    for len in SIZES {
        let repeats = ((4 << 20) / len).clamp(1, 4096);
        let timed = |copy: &dyn Fn()| {
            let start = Instant::now();
            (0..repeats).for_each(|_| copy());
            start.elapsed().as_secs_f64()
        };
        let mut ratios: Vec<f64> = (0..301)
            .map(|_| {
                let plain = timed(&|| {
                    // SAFETY: both mappings hold `len` bytes, and they are apart.
                    unsafe { black_box(from).copy_to_nonoverlapping(black_box(to), black_box(len)) }
                });
                let guarded = timed(&|| {
                    // SAFETY: both mappings hold `len` bytes.
                    let copied =
                        unsafe { try_copy(black_box(to), black_box(from), black_box(len)) };
                    black_box(copied).expect("the memory is healthy");
                });
                guarded / plain
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!("guarded copy of {len} bytes: {:.2} x memcpy", ratios[150]);
    }
}

fn loads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("load u64");
    let from = map(4096).cast::<u64>();
    group.bench_function("volatile", |bencher| {
        // SAFETY: aligned and mapped.
        bencher.iter(|| unsafe { black_box(from).read_volatile() });
    });
    group.bench_function("guarded", |bencher| {
        // SAFETY: aligned and mapped.
        bencher.iter(|| unsafe { try_load(black_box(from)) });
    });
    group.finish();
}

fn guest_memory(criterion: &mut Criterion) {
    let at = GuestAddress(0);
    let stock = GuestMemoryMmap::<()>::from_ranges(&[(at, GUEST)]).expect("4 MiB of memory");
    let gpas = GpaRange::new(Gpa::new(0), GUEST as u64).expect("4 MiB from 0");
    let base = Hva::new(map(GUEST).expose_provenance() as u64);
    // SAFETY: mapped for the life of the process, and used by the region alone.
    let region = unsafe { GuestRegion::new(gpas, base) }.expect("it is mapped");
    let region = GuardedRegion::new(region).expect("not empty");
    let regions = GuestRegionCollection::from_regions(vec![region]).expect("one region");
    let guarded = GuardedMemory::new(regions);

    let mut group = criterion.benchmark_group("vm-memory write_slice");
    for len in SIZES {
        let data = vec![1; len];
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::new("stock", len), |bencher| {
            bencher.iter(|| stock.write_slice(black_box(&data), black_box(at)));
        });
        group.bench_function(BenchmarkId::new("guarded", len), |bencher| {
            bencher.iter(|| guarded.write_slice(black_box(&data), black_box(at)));
        });
        group.bench_function(BenchmarkId::new("touched slices", len), |bencher| {
            bencher.iter(|| {
                guarded
                    .regions()
                    .write_slice(black_box(&data), black_box(at))
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(150))
        .measurement_time(Duration::from_millis(600))
        .sample_size(40)
        .without_plots();
    targets = copies, ratios, loads, guest_memory
}
criterion_main!(benches);
