//! Guest memory in which every word is known, with pagemend looking after it, and what has to be so after any failure.

use crate::memory::{GIB_1, KIB_4, MIB_2};
use crate::pattern::{fill, survey};
use crate::trial::Trial;
use anyhow::{Context, Result};
use pagemend::{
    Action, Builder, Event, Gpa, GpaRange, GuestMemory, GuestRegion, MemoryKind, PageSize,
    Pagemend, RegionConfig, Step,
};
use pagemend_lab_protocol::Needs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where the guest sees its memory: not at 0, so that a missing conversion shows, and where 32 bits reach.
pub(crate) const GPA: u64 = 1 << 30;

/// Who is told of losses, by name.
const LISTENER: &str = "lab";

/// A kind of guest memory, to loop over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Hugetlb2M,
    Hugetlb1G,
    HugetlbfsFile,
    HugetlbPrivate,
    Shmem,
    ShmemThp,
    Anonymous,
    AnonymousThp,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Hugetlb2M,
        Self::Hugetlb1G,
        Self::HugetlbfsFile,
        Self::HugetlbPrivate,
        Self::Shmem,
        Self::ShmemThp,
        Self::Anonymous,
        Self::AnonymousThp,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hugetlb2M => "hugetlb-2m",
            Self::Hugetlb1G => "hugetlb-1g",
            Self::HugetlbfsFile => "hugetlbfs-file",
            Self::HugetlbPrivate => "hugetlb-private",
            Self::Shmem => "shmem",
            Self::ShmemThp => "shmem-huge",
            Self::Anonymous => "anonymous",
            Self::AnonymousThp => "anonymous-huge",
        }
    }

    /// What the kernel takes for one error.
    pub(crate) fn page(self) -> usize {
        match self {
            Self::Hugetlb2M | Self::HugetlbfsFile | Self::HugetlbPrivate => MIB_2,
            Self::Hugetlb1G => GIB_1,
            Self::Shmem | Self::ShmemThp | Self::Anonymous | Self::AnonymousThp => KIB_4,
        }
    }

    /// What pagemend does about it.
    pub(crate) fn action(self) -> Action {
        match self {
            Self::Hugetlb2M | Self::Hugetlb1G | Self::HugetlbfsFile => Action::Mend,
            Self::HugetlbPrivate => Action::Abandon,
            Self::Shmem | Self::ShmemThp | Self::Anonymous | Self::AnonymousThp => Action::Record,
        }
    }

    /// Bytes of a guest: two pages of the larger of its page sizes and 2 MiB, so that a neighbour can suffer, or one of 1 GiB.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Hugetlb1G => GIB_1,
            _ => 2 * MIB_2,
        }
    }

    /// For so many such guests, one after another, each of which loses a page.
    pub(crate) fn needs(self, guests: u32) -> Needs {
        match self {
            // New memory for it comes from the pool of 2 MiB pages.
            Self::Hugetlb1G => Needs::NOTHING.huge_1g(guests).huge_2m(512).seconds(600),
            Self::Hugetlb2M | Self::HugetlbfsFile | Self::HugetlbPrivate => {
                Needs::NOTHING.huge_2m(guests + 1)
            }
            _ => Needs::NOTHING,
        }
    }

    pub(crate) fn kind(self) -> MemoryKind {
        match self {
            Self::Hugetlb2M => MemoryKind::Hugetlb(PageSize::SIZE_2M),
            Self::Hugetlb1G => MemoryKind::Hugetlb(PageSize::SIZE_1G),
            Self::HugetlbfsFile => MemoryKind::HugetlbFile("/huge-2m".into()),
            Self::HugetlbPrivate => MemoryKind::HugetlbPrivate(PageSize::SIZE_2M),
            Self::Shmem => MemoryKind::Shmem,
            Self::ShmemThp => MemoryKind::ShmemThp,
            Self::Anonymous => MemoryKind::Anonymous,
            Self::AnonymousThp => MemoryKind::AnonymousThp,
        }
    }
}

/// The memory and its mender.
pub(crate) struct Guest {
    pub(crate) pagemend: Pagemend,
    memory: Arc<GuestMemory>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Guest {
    /// As large as its kind says.
    pub(crate) fn of(kind: Kind) -> Result<Self> {
        Self::with(kind, kind.len(), |_, builder| builder)
    }

    /// As large and with a mender as wished, by one who knows where the memory is.
    pub(crate) fn with(
        kind: Kind,
        len: usize,
        configure: impl FnOnce(usize, Builder) -> Builder,
    ) -> Result<Self> {
        Self::on(Self::filled(kind, len)?, configure)
    }

    /// As large as its kind says, with its region and its mender as wished.
    pub(crate) fn configured(
        kind: Kind,
        region: impl FnOnce(RegionConfig) -> RegionConfig,
        configure: impl FnOnce(usize, Builder) -> Builder,
    ) -> Result<Self> {
        Self::build(Self::filled(kind, kind.len())?, region, configure)
    }

    /// Memory for a guest, with nobody looking after it yet.
    pub(crate) fn filled(kind: Kind, len: usize) -> Result<Arc<GuestMemory>> {
        let memory = GuestMemory::new(kind.kind(), len as u64)?;
        fill(memory.as_ptr() as usize, len);
        Ok(Arc::new(memory))
    }

    /// On such memory, whatever has become of it.
    pub(crate) fn on(
        memory: Arc<GuestMemory>,
        configure: impl FnOnce(usize, Builder) -> Builder,
    ) -> Result<Self> {
        Self::build(memory, |region| region, configure)
    }

    fn build(
        memory: Arc<GuestMemory>,
        region: impl FnOnce(RegionConfig) -> RegionConfig,
        configure: impl FnOnce(usize, Builder) -> Builder,
    ) -> Result<Self> {
        let base = memory.as_ptr() as usize;
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        let config = RegionConfig::of("ram", Gpa::new(GPA), Arc::clone(&memory))?;
        let builder = Pagemend::builder()
            .region(region(config))
            .listen(LISTENER, move |event| locked(&sink).push(event.clone()));
        let pagemend = configure(base, builder)
            .start()
            .context("the mender does not start")?;
        Ok(Self {
            pagemend,
            memory,
            events,
        })
    }

    /// The address of its first byte here.
    pub(crate) fn base(&self) -> usize {
        self.memory.as_ptr() as usize
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.memory.len() as usize
    }

    /// Guarded access, as device models have it.
    pub(crate) fn guarded(&self) -> GuestRegion {
        let memory = self.pagemend.memory("ram");
        memory.expect("the region has this name")
    }

    /// What was published so far.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let events = locked(&self.events);
        events.iter().map(|event| event.step.clone()).collect()
    }

    /// What was done about each fault that needed anything.
    pub(crate) fn actions(&self) -> Vec<Action> {
        let steps = self.steps().into_iter();
        steps
            .filter_map(|step| match step {
                Step::Done { action, .. } => action,
                _ => None,
            })
            .collect()
    }

    /// Frames that listeners were told of, as often as they were, by offset.
    fn told(&self) -> Vec<usize> {
        let runs = self.steps().into_iter().flat_map(|step| match step {
            Step::Record { lost, .. } => lost,
            _ => vec![],
        });
        let mut told: Vec<usize> = runs.flat_map(frames).collect();
        told.sort_unstable();
        told
    }

    /// Claims that exactly these frames are lost and told, and that every word of all others reads as written.
    pub(crate) fn lost_only(&self, t: &mut Trial, lost: &[usize]) {
        self.pagemend.settle();
        let (recorded, all_told) = self.pagemend.with_ledger(|ledger| {
            let recorded: Vec<usize> = ledger.iter().map(offset).collect();
            let told = ledger
                .iter()
                .all(|gpa| ledger.told(gpa).contains(&LISTENER));
            (recorded, told)
        });
        t.equal(
            "the ledger has what is lost",
            in_short(&recorded),
            in_short(lost),
        );
        t.claim("the ledger has who was told", all_told);
        t.equal("it is told once", in_short(&self.told()), in_short(lost));
        let found = survey(self.base(), 0..self.len());
        t.saw("the guest's memory", found.summary());
        t.claim(
            "everything else reads as written, and what is lost faults",
            found.lost_only(self.len(), lost),
        );
    }
}

/// Where the guest sees an offset.
pub(crate) fn gpa(offset: usize) -> Gpa {
    Gpa::new(GPA + offset as u64)
}

/// The offset that the guest sees at an address.
pub(crate) fn offset(gpa: Gpa) -> usize {
    (gpa.get() - GPA) as usize
}

fn frames(run: GpaRange) -> impl Iterator<Item = usize> {
    let start = offset(run.start());
    (start..start + run.len() as usize).step_by(KIB_4)
}

/// A list that fits into a line, whatever its length.
fn in_short(frames: &[usize]) -> String {
    match frames {
        [first, .., last] if frames.len() > 8 => {
            format!("{} frames from {first:#x} to {last:#x}", frames.len())
        }
        _ => format!("{frames:#x?}").split_whitespace().collect(),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
