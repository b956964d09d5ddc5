//! Compares the ledger with the other ways to remember lost frames, at ten million random ones in a
//! 640 GiB guest: a `BTreeSet`, a plain bitmap of the whole guest, and the `roaring` compressed
//! bitmaps, whole and 64-bit. These know only *which* frames are lost; the ledger also keeps cause,
//! time, order and who was told, and its time to insert and its size include that.
//!
//! First a table, for each structure filled once: inserts per second, bytes on the heap as counted
//! by the allocator. Then criterion's groups on the filled structures: `contains`, `overlaps` of a
//! 2 MiB page; and on empty ones: `insert` of the first million, and `lose_1GiB`, a page that is lost
//! whole.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeSet,
    hint::black_box,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use pagemend_core::{
    address::{FRAME_SIZE, Gpa, GpaRange, PageSize},
    ledger::{Cause, Ledger},
    time::Timestamp,
};
use roaring::{RoaringBitmap, RoaringTreemap};

const GUEST_FRAMES: u64 = (640 << 30) / FRAME_SIZE;
const LOST: u64 = 10_000_000;
const MILLION: u64 = 1_000_000;

/// Counts the bytes on the heap, so that every structure is weighed on the same scales.
struct Scales;

static ON_HEAP: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Scales {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ON_HEAP.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ON_HEAP.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ON_HEAP.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Scales = Scales;

/// What is asked of every structure, in frame numbers.
trait Frames {
    const NAME: &str;
    fn empty() -> Self;
    fn insert(&mut self, frame: u64) -> bool;
    fn insert_range(&mut self, first: u64, frames: u64);
    fn contains(&self, frame: u64) -> bool;
    fn overlaps(&self, first: u64, frames: u64) -> bool;
}

impl Frames for Ledger {
    const NAME: &str = "ledger";
    fn empty() -> Self {
        Self::new()
    }
    fn insert(&mut self, frame: u64) -> bool {
        // A storm: the clock moves on by a microsecond from error to error, and three in four
        // errors are found by the scrubber.
        let time = Timestamp::from_nanos(self.len() * 1000);
        let cause = match frame % 4 {
            0 => Cause::ActionRequired,
            _ => Cause::ActionOptional,
        };
        self.insert(Gpa::new(frame * FRAME_SIZE), cause, time)
    }
    fn insert_range(&mut self, first: u64, frames: u64) {
        self.insert_range(
            range_of(first, frames),
            Cause::ActionOptional,
            Timestamp::default(),
        );
    }
    fn contains(&self, frame: u64) -> bool {
        self.contains(Gpa::new(frame * FRAME_SIZE))
    }
    fn overlaps(&self, first: u64, frames: u64) -> bool {
        self.overlaps(&range_of(first, frames))
    }
}

fn range_of(first: u64, frames: u64) -> GpaRange {
    GpaRange::new(Gpa::new(first * FRAME_SIZE), frames * FRAME_SIZE)
        .expect("the guest's memory does not wrap")
}

/// One bit for each frame of the guest.
struct PlainBitmap(Vec<u64>);

impl Frames for PlainBitmap {
    const NAME: &str = "plain bitmap";
    fn empty() -> Self {
        Self(vec![0; GUEST_FRAMES.div_ceil(64) as usize])
    }
    fn insert(&mut self, frame: u64) -> bool {
        let missing = !self.contains(frame);
        self.0[frame as usize / 64] |= 1 << (frame % 64);
        missing
    }
    fn insert_range(&mut self, first: u64, frames: u64) {
        self.0[words(first, frames)].fill(u64::MAX);
    }
    fn contains(&self, frame: u64) -> bool {
        self.0[frame as usize / 64] >> (frame % 64) & 1 == 1
    }
    fn overlaps(&self, first: u64, frames: u64) -> bool {
        self.0[words(first, frames)].iter().any(|&word| word != 0)
    }
}

/// Where the frames of a huge page are: it is made of whole words.
fn words(first: u64, frames: u64) -> Range<usize> {
    first as usize / 64..(first + frames) as usize / 64
}

impl Frames for BTreeSet<u64> {
    const NAME: &str = "BTreeSet<u64>";
    fn empty() -> Self {
        Self::new()
    }
    fn insert(&mut self, frame: u64) -> bool {
        self.insert(frame)
    }
    fn insert_range(&mut self, first: u64, frames: u64) {
        self.extend(first..first + frames);
    }
    fn contains(&self, frame: u64) -> bool {
        self.contains(&frame)
    }
    fn overlaps(&self, first: u64, frames: u64) -> bool {
        self.range(first..first + frames).next().is_some()
    }
}

impl Frames for RoaringBitmap {
    const NAME: &str = "RoaringBitmap";
    fn empty() -> Self {
        Self::new()
    }
    fn insert(&mut self, frame: u64) -> bool {
        self.insert(frame as u32)
    }
    fn insert_range(&mut self, first: u64, frames: u64) {
        self.insert_range(first as u32..(first + frames) as u32);
    }
    fn contains(&self, frame: u64) -> bool {
        self.contains(frame as u32)
    }
    fn overlaps(&self, first: u64, frames: u64) -> bool {
        self.range_cardinality(first as u32..(first + frames) as u32) > 0
    }
}

impl Frames for RoaringTreemap {
    const NAME: &str = "RoaringTreemap";
    fn empty() -> Self {
        Self::new()
    }
    fn insert(&mut self, frame: u64) -> bool {
        self.insert(frame)
    }
    fn insert_range(&mut self, first: u64, frames: u64) {
        self.insert_range(first..first + frames);
    }
    fn contains(&self, frame: u64) -> bool {
        self.contains(frame)
    }
    fn overlaps(&self, first: u64, frames: u64) -> bool {
        self.rank(first + frames - 1) > first.checked_sub(1).map_or(0, |below| self.rank(below))
    }
}

/// SplitMix64: the same frames in every structure, at no cost worth mentioning.
struct Random(u64);

impl Random {
    fn frame(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % GUEST_FRAMES
    }
}

fn filled<S: Frames>(lost: u64) -> S {
    let (mut frames, mut random) = (S::empty(), Random(1));
    let mut inserted = 0;
    while inserted < lost {
        inserted += u64::from(frames.insert(random.frame()));
    }
    frames
}

/// Fills the structure and prints its line of the table.
fn weighed<S: Frames>() -> S {
    let mut columns = format!("{:14}", S::NAME);
    for lost in [1000, 100_000, MILLION] {
        let before = ON_HEAP.load(Ordering::Relaxed);
        let frames: S = filled(lost);
        let bytes = ON_HEAP.load(Ordering::Relaxed) - before;
        columns += &format!(" {:>11.1}", bytes as f64 / lost as f64);
        drop(frames);
    }
    let before = ON_HEAP.load(Ordering::Relaxed);
    let started = Instant::now();
    let frames = filled(LOST);
    let seconds = started.elapsed().as_secs_f64();
    let bytes = ON_HEAP.load(Ordering::Relaxed) - before;
    println!(
        "{columns} {:>11.1} {:>10.1} MB {:>7.1} million/s",
        bytes as f64 / LOST as f64,
        bytes as f64 / 1e6,
        LOST as f64 / 1e6 / seconds,
    );
    frames
}

fn bench<S: Frames>(criterion: &mut Criterion) {
    let frames: S = weighed();
    let huge_page = PageSize::SIZE_2M.frames();
    let mut random = Random(2);
    let mut group = criterion.benchmark_group("contains");
    group.bench_function(S::NAME, |bencher| {
        bencher.iter(|| frames.contains(black_box(random.frame())));
    });
    group.finish();
    let mut group = criterion.benchmark_group("overlaps");
    group.bench_function(S::NAME, |bencher| {
        bencher.iter(|| {
            let first = random.frame() / huge_page * huge_page;
            frames.overlaps(black_box(first), huge_page)
        });
    });
    group.finish();
    drop(frames);
    let mut group = criterion.benchmark_group("insert");
    group.throughput(Throughput::Elements(MILLION));
    group.bench_function(BenchmarkId::new(S::NAME, MILLION), |bencher| {
        bencher.iter_batched(|| (), |()| filled::<S>(MILLION), BatchSize::PerIteration);
    });
    group.finish();
    let whole_page = PageSize::SIZE_1G.frames();
    let mut group = criterion.benchmark_group("lose_1GiB");
    group.bench_function(S::NAME, |bencher| {
        let lose = |mut frames: S| {
            frames.insert_range(whole_page, whole_page);
            frames
        };
        bencher.iter_batched(S::empty, lose, BatchSize::PerIteration);
    });
    group.finish();
}

fn ledger(criterion: &mut Criterion) {
    println!("                       heap bytes a lost frame, at");
    println!(
        "structure             1000      100000     1000000    10000000      in all     inserts"
    );
    bench::<Ledger>(criterion);
    bench::<PlainBitmap>(criterion);
    bench::<BTreeSet<u64>>(criterion);
    bench::<RoaringBitmap>(criterion);
    bench::<RoaringTreemap>(criterion);
    check_own_account();
}

/// The ledger's own account of its size has to agree with the scales.
fn check_own_account() {
    let before = ON_HEAP.load(Ordering::Relaxed);
    let ledger: Ledger = filled(MILLION);
    let weighed = ON_HEAP.load(Ordering::Relaxed) - before;
    let own = ledger.memory_bytes();
    println!("ledger at 1000000: {own} bytes by its own account, {weighed} by the allocator's");
    assert!(own.abs_diff(weighed) < weighed / 100);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1));
    targets = ledger
}
criterion_main!(benches);
