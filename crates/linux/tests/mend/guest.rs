//! Guest memory in which every word has an expected value, under a running mender.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagemend_core::address::{FRAME_SIZE, Gpa, GpaRange, PageSize};
use pagemend_core::event::{Event, Step};
use pagemend_core::ledger::Cause;
use pagemend_core::plan::{Action, Reason};
use pagemend_linux::probe::Pool;
use pagemend_linux::{
    Builder, GuestMemory, Inject, MemoryError, MemoryKind, Pagemend, RegionConfig, resize_pool,
};

/// Where the guest sees its memory: not at 0, so that a missing conversion shows.
pub(crate) const BASE: u64 = 4 << 30;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// A process has one mender, and the tests of a binary share the process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Nobody else has a mender until this is dropped.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Guest {
    pub(crate) pagemend: Pagemend,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
    _turn: MutexGuard<'static, ()>,
}

/// The value that the word at a guest address has until somebody writes another.
pub(crate) fn pattern(gpa: Gpa) -> u64 {
    gpa.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

pub(crate) fn gpa(offset: u64) -> Gpa {
    Gpa::new(BASE + offset)
}

pub(crate) fn range(offset: u64, len: u64) -> GpaRange {
    GpaRange::new(gpa(offset), len).unwrap()
}

/// Every frame from `offset` on.
pub(crate) fn frames(offset: u64, len: u64) -> Vec<u64> {
    (offset..offset + len)
        .step_by(FRAME_SIZE as usize)
        .collect()
}

/// How far apart the words are that are written and checked: each one, but of a gigantic page one
/// in a cache line, for the sake of time.
fn stride(len: u64) -> usize {
    if len < GIB { 8 } else { 64 }
}

/// Grows the pool so that `pages` can be had, or says why the test cannot run here. To be called
/// in turn, because others may have taken all that there is.
pub(crate) fn need_pool(page_size: PageSize, pages: u64) {
    let pool = Pool::of(page_size).expect("a pool of this size");
    let missing = pages.saturating_sub(pool.spare());
    if missing > 0 {
        let wanted = pool.total + missing;
        assert_eq!(
            resize_pool(page_size, wanted).ok(),
            Some(wanted),
            "cannot grow the pool"
        );
    }
}

/// Takes all but `pages` of the pool of 2 MiB pages until it is dropped.
pub(crate) fn leave_in_pool(pages: u64) -> Vec<GuestMemory> {
    let mut taken = vec![];
    // Again and again: other processes take and give back meanwhile.
    loop {
        let pool = Pool::of(PageSize::SIZE_2M).expect("a pool of 2 MiB");
        let extra = pool.spare().saturating_sub(pages) * 2 * MIB;
        if extra == 0 {
            return taken;
        }
        // A reservation is enough: nobody else gets what is promised.
        taken.extend(GuestMemory::new(
            MemoryKind::Hugetlb(PageSize::SIZE_2M),
            extra,
        ));
    }
}

impl Guest {
    pub(crate) fn new(kind: MemoryKind, len: u64) -> Self {
        Self::with(kind, len, |builder| builder)
    }

    /// On 2 MiB pages of a memfd.
    pub(crate) fn huge(len: u64) -> Self {
        Self::new(MemoryKind::Hugetlb(PageSize::SIZE_2M), len)
    }

    /// With `spare` pages of 2 MiB in the pool besides.
    pub(crate) fn with_spare(kind: MemoryKind, len: u64, spare: u64) -> Self {
        Self::with(kind, len, |builder| {
            need_pool(PageSize::SIZE_2M, spare);
            builder
        })
    }

    pub(crate) fn with(
        kind: MemoryKind,
        len: u64,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        Self::build(kind, len, |region| region, configure).unwrap()
    }

    pub(crate) fn build(
        kind: MemoryKind,
        len: u64,
        region: impl FnOnce(RegionConfig) -> RegionConfig,
        configure: impl FnOnce(Builder) -> Builder,
    ) -> Result<Self, MemoryError> {
        let turn = turn();
        if let MemoryKind::Hugetlb(_) | MemoryKind::HugetlbFile(_) | MemoryKind::HugetlbPrivate(_) =
            kind
        {
            need_pool(kind.page_size(), len / kind.page_size().bytes());
        }
        let memory = Arc::new(GuestMemory::new(kind, len)?);
        for offset in (0..len).step_by(stride(len)) {
            let word = memory.as_ptr().wrapping_add(offset as usize).cast::<u64>();
            // SAFETY: a word of the memory that this test has just got.
            unsafe { word.write_volatile(pattern(gpa(offset))) };
        }
        let events = Arc::new(Mutex::new(vec![]));
        let sink = Arc::clone(&events);
        let config = RegionConfig::of("ram", gpa(0), Arc::clone(&memory)).unwrap();
        let builder = Pagemend::builder()
            .region(region(config))
            .listen("test", move |event| {
                sink.lock().unwrap().push(event.clone())
            });
        let pagemend = configure(builder).start().unwrap();
        Ok(Self {
            pagemend,
            memory,
            events,
            _turn: turn,
        })
    }

    /// The word at `offset`, mapped as long as the guest lives.
    pub(crate) fn word(&self, offset: u64) -> *mut u64 {
        assert!(offset < self.memory.len());
        self.memory.as_ptr().wrapping_add(offset as usize).cast()
    }

    /// A plain load, as any thread of a VMM would do it.
    pub(crate) fn load(&self, offset: u64) -> u64 {
        // SAFETY: a word of guest memory.
        unsafe { self.word(offset).read_volatile() }
    }

    pub(crate) fn store(&self, offset: u64, value: u64) {
        // SAFETY: as above.
        unsafe { self.word(offset).write_volatile(value) };
    }

    /// Makes the frame at `offset` fail at the next touch of its page.
    pub(crate) fn fail(&self, offset: u64) {
        let injector = self.pagemend.emulated_errors();
        injector.inject(gpa(offset), Cause::ActionRequired).unwrap();
    }

    /// Makes the frame at `offset` fail as a scrubber would find it.
    pub(crate) fn fail_untouched(&self, offset: u64) {
        let injector = self.pagemend.emulated_errors();
        injector.inject(gpa(offset), Cause::ActionOptional).unwrap();
    }

    /// What has happened so far.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let events = self.events.lock().unwrap();
        events.iter().map(|event| event.step.clone()).collect()
    }

    /// What was done about each fault that was one, with the reasons.
    pub(crate) fn outcomes(&self) -> Vec<(Action, Vec<Reason>)> {
        let done = |step| match step {
            Step::Done {
                action: Some(action),
                reasons,
                ..
            } => Some((action, reasons)),
            _ => None,
        };
        self.steps().into_iter().filter_map(done).collect()
    }

    /// The frames in the ledger.
    pub(crate) fn recorded(&self) -> Vec<u64> {
        self.pagemend
            .with_ledger(|ledger| ledger.iter().map(|gpa| gpa.get() - BASE).collect())
    }

    /// Checks the words by plain loads, and that guarded access refuses exactly `lost`.
    pub(crate) fn check_all_but(&self, lost: &[u64]) {
        let guarded = self.pagemend.memory("ram").unwrap();
        for frame in frames(0, self.memory.len()) {
            if lost.contains(&frame) {
                assert!(
                    guarded.load::<u64>(gpa(frame + 8)).is_err(),
                    "{frame:#x} can be read"
                );
                continue;
            }
            for offset in (frame..frame + FRAME_SIZE).step_by(stride(self.memory.len())) {
                assert_eq!(self.load(offset), pattern(gpa(offset)), "at {offset:#x}");
            }
        }
        assert_eq!(self.recorded(), lost);
    }
}
