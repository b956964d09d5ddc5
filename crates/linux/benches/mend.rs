//! Compares the mend of a 2 MiB page, from the touch of a healthy word to its value, with `memcpy`
//! of 2 MiB between huge pages, and with the naive way: reading the page's file 4 KiB at a time into
//! anonymous memory, without a mender or a signal. All in turn, everything in the caches before.
//!
//! Run it with `cargo bench -p pagemend-linux --bench mend`. It needs a pool of 2 MiB pages, or root
//! to grow one. Memory is staged in a tmpfs of the mender's own where the process has CAP_SYS_ADMIN;
//! then the capability is given up, and all is measured again with the plain memfd that a process
//! without it stages in. For each of the two: criterion's times, the ratios, and where the time goes,
//! from the mender's own events.

#[path = "common/pool.rs"]
mod pool;
#[path = "common/spread.rs"]
mod spread;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use pagemend_core::address::{FRAME_SIZE, Gpa, PageSize};
use pagemend_core::event::{Event, Step};
use pagemend_core::ledger::Cause;
use pagemend_linux::{GuestMemory, Inject, MemoryKind, Pagemend, RegionConfig};
use rustix::mount::FsOpenFlags;

use spread::Spread;

const PAGE: usize = 2 << 20;
/// Pages of a guest: each can be mended once.
const PAGES: usize = 64;
/// What is lost of each page, in its middle, and the word that is loaded.
const LOST: usize = 0x8_3000;
const HEALTHY: usize = 0x12_3450;
const ROUNDS: usize = 256;
const VALUE: u64 = 0x5ca1_ab1e;

/// A guest whose pages are mended one after another.
struct Guest {
    pagemend: Pagemend,
    memory: Arc<GuestMemory>,
    events: Arc<Mutex<Vec<Event>>>,
    mended: usize,
}

/// From the touch to the value, and the mender's events on the way.
struct Mend {
    took: Duration,
    events: Vec<Event>,
}

fn huge_memory(pages: usize) -> GuestMemory {
    let memory = GuestMemory::new(
        MemoryKind::Hugetlb(PageSize::SIZE_2M),
        (pages * PAGE) as u64,
    )
    .expect("the pool was grown for it");
    for offset in (0..pages * PAGE).step_by(8) {
        // SAFETY: a word of memory that nobody else knows yet.
        unsafe { memory.as_ptr().add(offset).cast::<u64>().write(VALUE) };
    }
    memory
}

impl Guest {
    fn new() -> Self {
        let memory = Arc::new(huge_memory(PAGES));
        let events = Arc::new(Mutex::new(vec![]));
        let sink = Arc::clone(&events);
        let region = RegionConfig::of("ram", Gpa::new(0), Arc::clone(&memory));
        let pagemend = Pagemend::builder()
            .region(region.expect("it has a file"))
            .demand_mend()
            .listen("bench", move |event| {
                let mut events = sink.lock().unwrap_or_else(PoisonError::into_inner);
                events.push(event.clone());
            })
            .start()
            .expect("userfaultfd with UFFDIO_POISON");
        Self {
            pagemend,
            memory,
            events,
            mended: 0,
        }
    }

    fn mend(&mut self) -> Mend {
        let page = self.mended * PAGE;
        self.mended += 1;
        warm(self.memory.as_ptr().wrapping_add(page));
        self.pagemend
            .emulated_errors()
            .inject(Gpa::new((page + LOST) as u64), Cause::ActionRequired)
            .expect("a page that has not failed yet");
        let word = self.memory.as_ptr().wrapping_add(page + HEALTHY);
        let start = Instant::now();
        // SAFETY: a word of guest memory, mapped as long as the guest lives.
        let value = unsafe { word.cast::<u64>().read_volatile() };
        let took = start.elapsed();
        assert_eq!(value, VALUE);
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        Mend {
            took,
            events: events.drain(..).collect(),
        }
    }
}

/// Guests, a fresh one whenever the last is used up: a process has one mender at a time.
struct Guests(Option<Guest>);

impl Guests {
    fn mend(&mut self) -> Mend {
        if self.0.as_ref().is_none_or(|guest| guest.mended == PAGES) {
            self.0 = None;
        }
        self.0.get_or_insert_with(Guest::new).mend()
    }
}

/// Reads 2 MiB.
fn warm(page: *const u8) {
    for offset in (0..PAGE).step_by(64) {
        // SAFETY: every caller has a page there.
        unsafe { page.add(offset).read_volatile() };
    }
}

/// Two huge pages to copy between.
struct Plain(GuestMemory);

impl Plain {
    fn memcpy(&self) -> Duration {
        let from = self.0.as_ptr();
        // SAFETY: the second page of two.
        let to = unsafe { from.add(PAGE) };
        warm(from);
        warm(to);
        let start = Instant::now();
        // SAFETY: two pages that lie apart.
        unsafe { black_box(from).copy_to_nonoverlapping(black_box(to), PAGE) };
        start.elapsed()
    }

    fn naive(&self) -> Duration {
        let file = self.0.file().expect("a memfd");
        warm(self.0.as_ptr());
        let target = anonymous();
        let start = Instant::now();
        let fresh = anonymous();
        for offset in (0..PAGE).step_by(FRAME_SIZE as usize) {
            if offset == LOST {
                continue;
            }
            // SAFETY: 4 KiB inside the fresh mapping.
            let read = unsafe {
                let to = fresh.add(offset).cast();
                libc::pread(
                    file.as_fd().as_raw_fd(),
                    to,
                    FRAME_SIZE as usize,
                    offset as i64,
                )
            };
            assert_eq!(read, FRAME_SIZE as isize);
        }
        // SAFETY: both are ours; the first is gone afterwards and not used any more.
        let moved = unsafe {
            let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            libc::mremap(fresh.cast(), PAGE, PAGE, how, target)
        };
        assert_ne!(moved, libc::MAP_FAILED);
        // SAFETY: a word of what has just been moved there.
        let value = unsafe { target.add(HEALTHY).cast::<u64>().read_volatile() };
        let took = start.elapsed();
        assert_eq!(value, VALUE);
        // SAFETY: ours, and nobody refers to it.
        unsafe { libc::munmap(target.cast(), PAGE) };
        took
    }
}

/// 2 MiB in pages of 4 KiB, not touched yet.
fn anonymous() -> *mut u8 {
    // SAFETY: a mapping somewhere free, and advice that changes no byte of it.
    unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let memory = libc::mmap(null_mut(), PAGE, access, flags, -1, 0);
        assert_ne!(memory, libc::MAP_FAILED);
        libc::madvise(memory, PAGE, libc::MADV_NOHUGEPAGE);
        memory.cast()
    }
}

fn name(step: &Step) -> &'static str {
    match step {
        Step::Fault { .. } => "1 examine",
        Step::Plan { .. } => "2 plan",
        Step::Claim => "3 claim",
        Step::Stage => "4 stage",
        Step::Salvage { .. } => "5 salvage",
        Step::Poison { .. } => "6 poison",
        Step::Swap { .. } => "7 swap",
        Step::Record { .. } => "8 record",
        Step::Done { .. } => "9 release",
        _ => "a step that should not be there",
    }
}

/// In turn, so that what else the machine does hits all of them alike.
fn ratios(way: &str, guests: &mut Guests, plain: &Plain) {
    let (mut mends, mut copies, mut naives) = (vec![], vec![], vec![]);
    let mut steps = BTreeMap::<_, Vec<f64>>::new();
    for _ in 0..ROUNDS {
        let mend = guests.mend();
        copies.push(plain.memcpy().as_secs_f64());
        naives.push(plain.naive().as_secs_f64());
        let mut handled = 0;
        for event in &mend.events {
            let micros = event.duration_ns as f64 / 1e3;
            steps.entry(name(&event.step)).or_default().push(micros);
            if let Step::Done { total_ns, .. } = event.step {
                handled = total_ns;
            }
        }
        let took = mend.took.as_secs_f64();
        let around = took * 1e6 - handled as f64 / 1e3;
        steps.entry("signal, wake-ups").or_default().push(around);
        mends.push(took);
    }
    println!("where the time of a mend goes, {way}: median [quartiles] in µs");
    for (step, micros) in steps {
        println!("  {step:<18} {:.1}", Spread::of(micros));
    }
    let micros = |samples: &[f64]| Spread::of(samples.iter().map(|sample| sample * 1e6));
    println!(
        "  {:<18} {:.1}, memcpy {:.1}, naive {:.1}",
        "all",
        micros(&mends),
        micros(&copies),
        micros(&naives)
    );
    println!(
        "mend of 2 MiB, {way}: {} x memcpy, {} x the naive way; the naive way: {} x memcpy",
        Spread::of_ratios(&mends, &copies),
        Spread::of_ratios(&mends, &naives),
        Spread::of_ratios(&naives, &copies),
    );
}

fn compare(criterion: &mut Criterion, way: &str, plain: &Plain) {
    let mut guests = Guests(None);
    // A virtual machine's memory may have none behind it before it is first used.
    (0..PAGES).for_each(|_| drop(guests.mend()));
    let mut group = criterion.benchmark_group(format!("2 MiB, {way}"));
    group.sampling_mode(SamplingMode::Flat);
    let times =
        |once: &mut dyn FnMut() -> Duration, iterations| (0..iterations).map(|_| once()).sum();
    group.bench_function("memcpy", |bencher| {
        bencher.iter_custom(|iterations| times(&mut || plain.memcpy(), iterations));
    });
    group.bench_function("naive", |bencher| {
        bencher.iter_custom(|iterations| times(&mut || plain.naive(), iterations));
    });
    group.bench_function("mend", |bencher| {
        bencher.iter_custom(|iterations| times(&mut || guests.mend().took, iterations));
    });
    group.finish();
    ratios(way, &mut guests, plain);
}

/// Whether the mender can have a tmpfs of its own.
fn may_mount() -> bool {
    rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
}

/// Takes CAP_SYS_ADMIN from this thread, and so from the threads that it starts.
fn give_up_mounting() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3` (include/uapi/linux/capability.h).
    const VERSION: u32 = 0x2008_0522;
    const CAP_SYS_ADMIN: u32 = 21;
    let header = [VERSION, 0];
    // Effective, permitted and inheritable, twice 32 capabilities.
    let mut sets = [0u32; 6];
    // SAFETY: header and sets are laid out as this version has them.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    sets[0] &= !(1 << CAP_SYS_ADMIN);
    // SAFETY: as above.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    match (got, set) {
        (0, 0) => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn main() {
    let Some(grown) = pool::need(PageSize::SIZE_2M, PAGES as u64 + 2) else {
        return;
    };
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(800))
        .sample_size(20)
        .without_plots()
        .configure_from_args();
    let plain = Plain(huge_memory(2));
    if may_mount() {
        compare(&mut criterion, "staged in a huge tmpfs", &plain);
        give_up_mounting().expect("a thread may always give up a capability");
    } else {
        println!("no CAP_SYS_ADMIN: only staging in a memfd is measured");
    }
    compare(&mut criterion, "staged in a memfd", &plain);
    drop(plain);
    drop(grown);
    criterion.final_summary();
}
