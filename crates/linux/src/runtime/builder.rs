//! What a VMM says before the mender starts.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pagemend_core::address::GpaRange;
use pagemend_core::event::Event;
use pagemend_core::map::MapError;
use pagemend_core::mender::Mender;

use super::thread::Prologue;
use super::{Pagemend, Place, RUNNING, Shared, thread};
use crate::capabilities::capabilities;
use crate::emulate::Emulation;
use crate::files::Files;
use crate::host::{LinuxHost, Listener, LookingGlass, PauseHooks};
use crate::intake::ranges::MAX_REGIONS;
use crate::intake::{self, ranges, slot};
use crate::lease::Leases;
use crate::region::{RegionConfig, RegionError, inspect};
use crate::uffd::{Uffd, UffdError};

/// How long a mend waits for I/O unless said otherwise: longer than a disk takes, shorter than a
/// guest's watchdog waits.
const LEASE_LIMIT: Duration = Duration::from_secs(2);

/// Why the mender did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A process has one SIGBUS handler and one mender.
    #[error("a mender is running in this process already: add the regions to that one")]
    AlreadyRunning,
    /// There is nothing to look after.
    #[error("no region of guest memory was given")]
    NoRegions,
    /// More regions than the signal handler has room for.
    #[error("{0} regions of guest memory were given, and there is room for {MAX_REGIONS}")]
    TooManyRegions(usize),
    /// A region is not what it was said to be.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Regions do not fit together.
    #[error(transparent)]
    Map(#[from] MapError),
    /// Frames cannot be marked, and that was demanded.
    #[error(transparent)]
    Userfaultfd(#[from] UffdError),
    /// The system refused.
    #[error("{call}")]
    Call {
        /// What was done.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Describes what to look after.
#[derive(Default)]
pub struct Builder {
    regions: Vec<RegionConfig>,
    lease_limit: Option<Duration>,
    hooks: Option<PauseHooks>,
    listeners: Vec<(String, Listener)>,
    prologue: Option<Prologue>,
    demand_mend: bool,
    late: bool,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let listeners: Vec<_> = self.listeners.iter().map(|(name, _)| name).collect();
        f.debug_struct("Builder")
            .field("regions", &self.regions)
            .field("lease_limit", &self.lease_limit)
            .field("pause_hooks", &self.hooks.is_some())
            .field("listeners", &listeners)
            .field("on_thread", &self.prologue.is_some())
            .field("demand_mend", &self.demand_mend)
            .field("early_kill", &!self.late)
            .finish()
    }
}

impl Builder {
    /// A region of guest memory.
    pub fn region(mut self, region: RegionConfig) -> Self {
        self.regions.push(region);
        self
    }

    /// How long a mend waits for I/O leases on its page before it is abandoned. Two seconds unless
    /// said.
    pub fn lease_limit(self, limit: Duration) -> Self {
        Self {
            lease_limit: Some(limit),
            ..self
        }
    }

    /// Called before a page is salvaged and after new memory is in its place, for a VMM that has
    /// to stop devices, or everything. Where `pause` refuses, the page is abandoned with its words
    /// as the reason; `resume` is called after each `pause` that did not.
    ///
    /// They are called on the mender's thread, which nobody else's wait can end meanwhile. So `pause`
    /// must not wait for a thread that may itself be waiting for a mend: one in a touch of guest
    /// memory, in [`take_fault`](crate::VcpuThread::take_fault), in [`lease`](crate::Pagemend::lease)
    /// or in any other call of this library. Such a one counts as stopped; it does not touch the page
    /// before the mend is done. Leases on the page are waited for after `pause`, so that devices that
    /// it stops can end theirs.
    pub fn pause_hooks(
        self,
        pause: impl FnMut(GpaRange) -> Result<(), String> + Send + 'static,
        resume: impl FnMut(GpaRange) + Send + 'static,
    ) -> Self {
        let (mut pause, mut resume) = (pause, resume);
        let hooks = PauseHooks {
            pause: Box::new(move |page| {
                survive(|| pause(page)).unwrap_or_else(|| Err("the hook panicked".to_owned()))
            }),
            resume: Box::new(move |page| {
                survive(|| resume(page));
            }),
        };
        Self {
            hooks: Some(hooks),
            ..self
        }
    }

    /// Calls `listener` for each event, on the mender's thread: nobody who waits for the fault
    /// goes on before it has returned. The ledger notes that `name` was told of each loss.
    pub fn listen(mut self, name: &str, listener: impl FnMut(&Event) + Send + 'static) -> Self {
        let mut listener = listener;
        let listener = move |event: &Event| {
            survive(|| listener(event));
        };
        self.listeners.push((name.to_owned(), Box::new(listener)));
        self
    }

    /// Called once on the mender's thread before it takes its first fault, for a VMM that confines
    /// or places its threads. If it fails, [`start`](Self::start) does.
    pub fn on_thread(self, prologue: impl FnOnce() -> io::Result<()> + Send + 'static) -> Self {
        Self {
            prologue: Some(Box::new(prologue)),
            ..self
        }
    }

    /// Fails to start where frames cannot be marked one by one, rather than lose whole pages.
    pub fn demand_mend(self) -> Self {
        Self {
            demand_mend: true,
            ..self
        }
    }

    /// Whether the kernel tells the mender of errors that nobody has touched yet, so that they are
    /// mended before anybody is kept waiting. True unless said. Without, a failed page is found by
    /// its first touch, for tests of that; where `vm.memory_failure_early_kill` is 1, the kernel
    /// tells some thread of the process all the same.
    pub fn early_kill(self, early: bool) -> Self {
        Self {
            late: !early,
            ..self
        }
    }

    /// Starts. From now on the process's SIGBUS is handled, and what was there before gets what is
    /// not guest memory.
    pub fn start(self) -> Result<Pagemend, BuildError> {
        let regions = self.regions.len();
        if regions == 0 {
            return Err(BuildError::NoRegions);
        }
        if regions > MAX_REGIONS {
            return Err(BuildError::TooManyRegions(regions));
        }
        if RUNNING.swap(true, Ordering::AcqRel) {
            return Err(BuildError::AlreadyRunning);
        }
        let started = self.start_only();
        if started.is_err() {
            RUNNING.store(false, Ordering::Release);
        }
        started
    }

    fn start_only(self) -> Result<Pagemend, BuildError> {
        let call = |call| move |source| BuildError::Call { call, source };
        let files = Files::new().map_err(call("opening files for new memory"))?;
        let uffd = match Uffd::open() {
            Ok(uffd) => Some(Arc::new(uffd)),
            Err(error) if self.demand_mend => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "lost frames cannot be marked: whole pages will be lost");
                None
            }
        };
        let origin = uffd.as_ref().map(|uffd| uffd.origin());
        let (names, listeners) = self.listeners.into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
        let host = LinuxHost {
            capabilities: capabilities(uffd.is_some()),
            files: Arc::clone(&files),
            uffd,
            emulation: Emulation::default(),
            regions: vec![],
            leases: Arc::default(),
            lease_limit: self.lease_limit.unwrap_or(LEASE_LIMIT),
            hooks: self.hooks,
            listeners,
            looking_glass: LookingGlass::new().map_err(call("opening a pipe"))?,
            plots: vec![],
            bounce: None,
        };
        let mut mender = Mender::new(host, names.iter().map(String::as_str));
        let mut leases = Leases::default();
        let mut memory = vec![];
        for mut config in self.regions {
            memory.extend(config.memory.take());
            let (region, facts) = inspect(config, &files)?;
            leases.add_region(region.gpa, region.page_size);
            mender.add_region(region)?;
            mender.host_mut().regions.extend(facts);
        }
        let leases = Arc::new(leases);
        mender.host_mut().leases = Arc::clone(&leases);
        let places: Arc<[Place]> = mender
            .map()
            .regions()
            .map(|region| Place {
                gpa: region.gpa,
                hva: region.hva_range(),
            })
            .collect();
        let hvas: Vec<_> = places.iter().map(|place| place.hva).collect();

        let doorbell = slot::doorbell().map_err(call("opening an eventfd"))?;
        let shared = Arc::new(Shared {
            mender: Mutex::new(mender),
            leases,
            doorbell,
            stop: AtomicBool::new(false),
            thread: AtomicI32::new(0),
            origin,
            early_kill: !self.late,
            pretended: Mutex::default(),
            errands: Mutex::new(Some(VecDeque::new())),
            places,
            memory,
        });
        let thread =
            thread::start(&shared, self.prologue).map_err(call("starting the mender's thread"))?;
        // From here on dropping the handle undoes it all.
        let pagemend = Pagemend {
            thread: Some(thread),
            shared,
        };
        slot::open(doorbell);
        ranges::set(&hvas);
        intake::install().map_err(call("installing the SIGBUS handler"))?;
        Ok(pagemend)
    }
}

/// A listener or hook that panics is heard of, and does not take the mender with it.
fn survive<T>(foreign: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(foreign));
    if result.is_err() {
        tracing::error!("a hook or listener panicked");
    }
    result.ok()
}
