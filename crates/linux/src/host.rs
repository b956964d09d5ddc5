//! Linux as the mender's host: each of its calls, on the real thing.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pagemend_core::address::{Gpa, GpaRange, Hva, HvaRange, PageSize};
use pagemend_core::event::Event;
use pagemend_core::fault::{Condition, Evidence, Fault};
use pagemend_core::host::{Host, Salvaged, Swapped, Target};
use pagemend_core::map::{Backing, Segment};
use pagemend_core::plan::Capabilities;
use pagemend_core::time::Timestamp;
use rustix::pipe::PipeFlags;

use crate::emulate::Emulation;
use crate::files::Files;
use crate::intake::notice;
use crate::lease::{LeaseHeld, Leases};
use crate::mapping::Mapping;
use crate::settings::{NumaPolicy, Settings};
use crate::stage::{Plot, Stage};
use crate::uffd::Uffd;

/// Why a step failed on Linux. Events carry its text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// A device did not finish its I/O.
    #[error(transparent)]
    LeaseHeld(#[from] LeaseHeld),
    /// The VMM's pause hook refused.
    #[error("the VMM did not pause: {0}")]
    NotPaused(String),
    /// There is no userfaultfd to mark frames with.
    #[error("there is no userfaultfd")]
    NoUserfaultfd,
    /// The page has no file.
    #[error("the page has no file that could be read")]
    NoFile,
    /// The file ended before the page.
    #[error("the file ends at {offset} bytes, inside the page")]
    FileEnds {
        /// Bytes from the start of the file.
        offset: u64,
    },
    /// A system call failed.
    #[error("{call}")]
    Call {
        /// What was done, in the kernel's words.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

pub(crate) fn call(call: &'static str) -> impl FnOnce(io::Error) -> HostError {
    move |source| HostError::Call { call, source }
}

/// What a VMM does before memory is swapped, and after.
pub(crate) struct PauseHooks {
    pub(crate) pause: Box<dyn FnMut(GpaRange) -> Result<(), String> + Send>,
    pub(crate) resume: Box<dyn FnMut(GpaRange) + Send>,
}

/// Who is told of each event.
pub(crate) type Listener = Box<dyn FnMut(&Event) + Send>;

/// What of a region only Linux has to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RegionFacts {
    pub(crate) hva: HvaRange,
    pub(crate) settings: Settings,
}

/// Linux.
pub(crate) struct LinuxHost {
    pub(crate) capabilities: Capabilities,
    pub(crate) files: Arc<Files>,
    pub(crate) uffd: Option<Arc<Uffd>>,
    pub(crate) emulation: Emulation,
    pub(crate) regions: Vec<RegionFacts>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) lease_limit: Duration,
    pub(crate) hooks: Option<PauseHooks>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) looking_glass: LookingGlass,
    /// Of the pages that are covered.
    pub(crate) plots: Vec<Plot>,
    /// Where a page is read to before it is written to new memory. Got at the first mend that
    /// needs it.
    pub(crate) bounce: Option<Mapping>,
}

/// Tells whether an address can be read without touching it: the kernel does, and gives an error
/// where the mender's own thread would be killed.
#[derive(Debug)]
pub(crate) struct LookingGlass {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl LookingGlass {
    pub(crate) fn new() -> io::Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { reader, writer })
    }

    pub(crate) fn readable(&self, hva: Hva) -> bool {
        // SAFETY: the kernel reads one byte, or says EFAULT.
        let wrote = unsafe { libc::write(self.writer.as_raw_fd(), hva.get() as *const _, 1) };
        let mut byte = [0];
        let read = rustix::io::read(&self.reader, &mut byte);
        debug_assert_eq!(wrote == 1, read.is_ok());
        wrote == 1
    }
}

impl LinuxHost {
    fn resume(&mut self, page: GpaRange) {
        if let Some(hooks) = &mut self.hooks {
            notice::unblocked(|| (hooks.resume)(page));
        }
    }

    pub(crate) fn settings_at(&self, hva: Hva) -> Settings {
        let region = self.regions.iter().find(|region| region.hva.contains(hva));
        region.map_or_else(Settings::default, |region| region.settings)
    }

    /// Where the memory of a page should come from: as its mapping says, else as its neighbours.
    pub(crate) fn numa_policy(&self, target: &Target) -> Option<NumaPolicy> {
        let page = HvaRange::new(target.hva, target.page.len())?;
        let region = self
            .regions
            .iter()
            .find(|region| region.hva.covers(&page))?;
        let before = page.start().get().checked_sub(1).map(Hva::new);
        let near: Vec<Hva> = [before, Some(page.end())]
            .into_iter()
            .flatten()
            .filter(|hva| region.hva.contains(*hva))
            .map(|hva| hva.align_down(PageSize::SIZE_4K))
            .collect();
        NumaPolicy::of(target.hva, &near)
    }

    /// Makes the page at `gpa` fail, for this process alone.
    pub(crate) fn emulate_failure(
        &mut self,
        segment: &Segment,
        gpa: Gpa,
        hva: Hva,
    ) -> io::Result<()> {
        let uffd = self.uffd.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let unit = segment.backing.unit_of_loss(segment.page_size);
        let frame = segment.source_of(gpa.frame());
        let page = GpaRange::page(gpa, unit);
        if self.plots.iter().any(|plot| page.covers(&plot.page())) {
            // What is still missing of a covered page faults already.
            self.emulation.unreadable(frame);
            return Ok(());
        }
        self.emulation.fail(
            uffd,
            HvaRange::page(hva, unit),
            frame,
            minor_faults(segment.backing),
        )
    }
}

/// Whether userfaultfd has minor faults for it: where a file keeps what is unmapped.
pub(crate) fn minor_faults(backing: Backing) -> bool {
    matches!(backing, Backing::Hugetlb | Backing::Shmem)
}

impl Host for LinuxHost {
    type Stage = Stage;
    type Error = HostError;

    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp::from_nanos(since.as_nanos() as u64)
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn examine(&mut self, fault: &Fault, _gpa: Gpa) -> Condition {
        let readable = self.looking_glass.readable(fault.address);
        match (fault.evidence, readable) {
            (Evidence::MemoryFailure, true) => Condition::Readable,
            (Evidence::MemoryFailure, false) => Condition::Poisoned,
            // Without a failure, executing the access again would only bring it back: a store
            // can fail where a load does not.
            (Evidence::AddressError, true) if self.emulation.ever_faulted_at(fault.address) => {
                Condition::Readable
            }
            (Evidence::AddressError, false) if self.emulation.faults_at(fault.address) => {
                Condition::Poisoned
            }
            (Evidence::AddressError, _) => Condition::Foreign,
        }
    }

    fn has_failed(&mut self, segment: &Segment, gpa: Gpa) -> bool {
        let frame = segment.source_of(gpa.frame());
        frame.is_some_and(|frame| self.is_unreadable(frame))
    }

    fn claim(&mut self, page: GpaRange) -> Result<(), HostError> {
        if let Some(hooks) = &mut self.hooks {
            notice::unblocked(|| (hooks.pause)(page)).map_err(HostError::NotPaused)?;
        }
        let closed = self.leases.close(page, self.lease_limit);
        if closed.is_err() {
            self.resume(page);
        }
        Ok(closed?)
    }

    fn release(&mut self, page: GpaRange) {
        self.forget_plot(&page);
        self.leases.open(page);
        self.resume(page);
    }

    fn cover(&mut self, target: &Target) -> Result<(), HostError> {
        self.cover_page(target).map_err(call("covering the page"))
    }

    fn stage(&mut self, target: &Target) -> Result<Stage, HostError> {
        let settings = self.settings_at(target.hva);
        let plot = self.plot_of(&target.page);
        let policy = match plot {
            Some(plot) => plot.policy,
            None => self.numa_policy(target),
        };
        Stage::new(&self.files, target.clone(), settings, policy, plot)
            .map_err(call("getting new memory"))
    }

    fn salvage(&mut self, stage: &mut Stage, offset: u64, len: u64) -> Result<Salvaged, HostError> {
        self.salvage_into(stage, offset, len)
    }

    fn poison(&mut self, stage: &mut Stage, lost: &[GpaRange]) -> Result<(), HostError> {
        self.finish_filling(stage)?;
        let uffd = self.uffd.as_ref().ok_or(HostError::NoUserfaultfd)?;
        stage
            .mark(&self.files, uffd, lost)
            .map_err(call("marking the lost frames"))
    }

    fn swap(&mut self, mut stage: Stage) -> Result<Swapped, HostError> {
        self.finish_filling(&mut stage)?;
        let target = stage.target().clone();
        let uffd = self.uffd.clone();
        let files = Arc::clone(&self.files);
        let swapped = stage.swap(&files, uffd.as_deref(), || self.restore(&target));
        let swapped = swapped.map_err(call("swapping in the new memory"))?;
        if let Some(page) = HvaRange::new(target.hva, target.page.len()) {
            self.emulation.replaced(page);
        }
        Ok(swapped)
    }

    fn heal(&mut self, target: &Target) -> Result<Stage, HostError> {
        self.stage_healed(target)
            .map_err(call("making a huge page"))
    }

    fn renew(&mut self, frame: &Target) -> Result<(), HostError> {
        self.renew_in_place(frame)
            .map_err(call("renewing a lost frame"))
    }

    fn retire(&mut self, segments: &[Segment]) {
        for segment in segments {
            if let Some(source) = segment.source {
                self.files.give_back(source, segment.gpa.len());
            }
        }
    }

    fn isolate(&mut self, frame: &Target) -> Result<(), HostError> {
        let uffd = self.uffd.as_ref().ok_or(HostError::NoUserfaultfd)?;
        let range = HvaRange::new(frame.hva, frame.page.len()).expect("it is guest memory");
        let backing = frame.segments[0].backing;
        uffd.poison_in_use(range, minor_faults(backing))
            .map_err(call("marking the lost frame"))
    }

    fn publish(&mut self, event: &Event) {
        tracing::debug!(fault = event.fault, page = %event.page, step = ?event.step, "pagemend");
        if !self.listeners.is_empty() {
            notice::unblocked(|| {
                for listener in &mut self.listeners {
                    listener(event);
                }
            });
        }
    }
}
