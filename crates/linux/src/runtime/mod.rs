//! A running mender: the engine on its own thread, and the handle through which a VMM uses it.

mod builder;
mod inject;
mod thread;
mod vcpu;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use pagemend_core::address::{Gpa, GpaRange, Hva, HvaRange};
use pagemend_core::event::Totals;
use pagemend_core::fault::{Evidence, Fault, Verdict};
use pagemend_core::ledger::{Cause, Ledger};
use pagemend_core::map::{MemoryMap, Segment};
use pagemend_core::mender::{Healed, Mender, Progress, Reset};
use pagemend_core::plan::Capabilities;

use crate::guard::GuestRegion;
use crate::host::LinuxHost;
use crate::intake::{self, slot, threads};
use crate::lease::{Lease, LeaseError, Leases};
use crate::memory::GuestMemory;
use crate::uffd::Origin;

pub use builder::{BuildError, Builder};
pub use inject::{CorruptPfn, Emulated, Inject, InjectError, Madvise};
pub use vcpu::{TooManyVcpus, VcpuFault, VcpuThread};

/// A process has one SIGBUS handler, so it has one mender.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// Something for the mender's thread to do between faults.
type Errand = Box<dyn FnOnce(&mut Mender<LinuxHost>) + Send>;

/// Where the guest sees a region, and where this process does.
#[derive(Clone, Copy, Debug)]
struct Place {
    gpa: GpaRange,
    hva: HvaRange,
}

/// The mender's thread has ended, which it does only where it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the mender's thread has ended: a bug, of which it left a panic message")]
pub struct MenderGone;

/// What the handle and the mender's thread both use.
pub(crate) struct Shared {
    mender: Mutex<Mender<LinuxHost>>,
    leases: Arc<Leases>,
    doorbell: &'static OwnedFd,
    stop: AtomicBool,
    /// The mender's thread, once it runs.
    thread: AtomicI32,
    origin: Option<Origin>,
    /// Whether the kernel tells the mender's thread of errors that nobody has touched.
    early_kill: bool,
    /// Addresses of which the mender's thread is to hear as if the kernel had found them.
    pretended: Mutex<VecDeque<Hva>>,
    /// What else the mender's thread is asked to do; none once it has ended.
    errands: Mutex<Option<VecDeque<Errand>>>,
    /// Where each region is: they do not move.
    places: Arc<[Place]>,
    /// Guest memory that was given with its region lives as long as the mender.
    memory: Vec<Arc<GuestMemory>>,
}

impl Shared {
    /// The engine.
    ///
    /// # Panics
    ///
    /// On the mender's own thread, which holds it while it calls hooks and listeners.
    fn mender(&self) -> MutexGuard<'_, Mender<LinuxHost>> {
        self.assert_elsewhere();
        self.mender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics on the mender's own thread, which would wait for itself.
    fn assert_elsewhere(&self) {
        assert_ne!(
            threads::current(),
            self.thread.load(Ordering::Acquire),
            "a hook or listener asked the mender that is calling it: use what the event says"
        );
    }

    /// Has the mender's thread do something when it has handled every fault that came before, and
    /// waits for the result.
    fn ask<T: Send + 'static>(
        &self,
        errand: impl FnOnce(&mut Mender<LinuxHost>) -> T + Send + 'static,
    ) -> Result<T, MenderGone> {
        self.assert_elsewhere();
        let (answer, answered) = mpsc::channel();
        self.post(move |mender| {
            // Who asked waits for it.
            let _ = answer.send(errand(mender));
        })?;
        // Whatever becomes of the thread, the errand is done or dropped.
        answered.recv().map_err(|_| MenderGone)
    }

    /// The same, without waiting.
    fn post(
        &self,
        errand: impl FnOnce(&mut Mender<LinuxHost>) + Send + 'static,
    ) -> Result<(), MenderGone> {
        self.errands()
            .as_mut()
            .ok_or(MenderGone)?
            .push_back(Box::new(errand));
        self.ring();
        Ok(())
    }

    fn errands(&self) -> MutexGuard<'_, Option<VecDeque<Errand>>> {
        self.errands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the mender's thread, which cannot miss it: the doorbell rings until it is read.
    fn ring(&self) {
        let _ = rustix::io::write(self.doorbell, &1u64.to_ne_bytes());
    }

    fn pretended(&self) -> MutexGuard<'_, VecDeque<Hva>> {
        self.pretended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks after a guest's memory until it is dropped.
///
/// All methods can be called from any thread but the mender's own: hooks and listeners run on
/// that, in the middle of a fault, and have to use what they are given.
pub struct Pagemend {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Pagemend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pagemend").finish_non_exhaustive()
    }
}

impl Pagemend {
    /// Describes what to look after, and starts.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What can be done on this host.
    pub fn capabilities(&self) -> Capabilities {
        self.shared.mender().host().capabilities
    }

    /// How the userfaultfd was had, or `None` where there is none.
    pub fn userfaultfd(&self) -> Option<Origin> {
        self.shared.origin
    }

    /// Registers the calling thread as one that runs a vCPU.
    pub fn vcpu_thread(&self) -> Result<VcpuThread, TooManyVcpus> {
        VcpuThread::new(Arc::clone(&self.shared.places))
    }

    /// Resets the guest's memory, as a machine's reset does: healthy bytes stay, lost frames become
    /// fresh zeroed memory, pages that were abandoned whole can be used again, pages get the size
    /// that they were configured with where the host has such, and the ledger is cleared. Addresses,
    /// and so memory slots, stay. What the host has no memory for stays lost, as the result says.
    ///
    /// Nobody may use guest memory meanwhile: the VMM has stopped its vCPUs and asked each of them
    /// for the [fault](VcpuThread::take_fault) that it has met, and its devices have finished. Hooks
    /// and leases count, page by page, as at a mend.
    pub fn reset(&self) -> Result<Reset, MenderGone> {
        self.shared.ask(Mender::reset)
    }

    /// The guest has acknowledged that the frame at `gpa` is lost: by ending the machine check of it,
    /// or as it has read the record. [`Heal::OnAck`](pagemend_core::policy::Heal::OnAck) waits for
    /// that. Does not wait for the mender, so any thread may say it, listeners too.
    pub fn acknowledged(&self, gpa: Gpa) -> Result<(), MenderGone> {
        self.shared.post(move |mender| mender.acknowledged(gpa))
    }

    /// Heals what can be healed in `range`, whatever the policy: 2 MiB stretches that were broken up
    /// around lost frames become huge pages again, under a running guest. Their lost frames can be
    /// read from then on, as [`FILL`](pagemend_core::host::FILL), and written; that the guest keeps
    /// off them is in the ledger. Where it fails, the frames go on faulting. Waits until all pages that
    /// are being mended on demand are complete.
    pub fn heal(&self, range: GpaRange) -> Result<Healed, MenderGone> {
        self.shared.ask(move |mender| mender.heal(range))
    }

    /// Guest memory for device models and whoever else reads and writes it: access gives an error
    /// where bytes are lost. `None` where no region is called `name`.
    pub fn memory(&self, name: &str) -> Option<GuestRegion> {
        let mender = self.shared.mender();
        let region = mender.map().regions().find(|region| region.name == name)?;
        let ours = self.shared.memory.iter();
        let ours = ours
            .map(Arc::clone)
            .find(|memory| memory.hva() == region.hva);
        // SAFETY: the region keeps memory of ours; for any other, whoever registered it has
        // vouched that it stays mapped.
        let guarded = unsafe { GuestRegion::new(region.gpa, region.hva) };
        guarded.map(|guarded| guarded.keeping(ours))
    }

    /// Takes a lease on guest memory that is about to be handed to the kernel for I/O. Waits only
    /// while the memory is being mended, so it is for threads that have no lease yet: a mend waits for
    /// those, and who has one and waits for another would hold up both until the
    /// [limit](Builder::lease_limit), at which the whole page is given up.
    pub fn lease(&self, range: GpaRange) -> Result<Lease, LeaseError> {
        self.shared.leases.take(range)
    }

    /// The same for a thread that has I/O in flight: [`LeaseError::BeingMended`] where it would have to
    /// wait. It finishes what it has begun, and then waits with [`lease`](Self::lease) or tries again.
    pub fn try_lease(&self, range: GpaRange) -> Result<Lease, LeaseError> {
        self.shared.leases.try_take(range)
    }

    /// Reports an address at which a system call has failed because of poison (EHWPOISON), and
    /// waits for the answer.
    pub fn report(&self, address: Hva) -> Verdict {
        self.shared.assert_elsewhere();
        slot::ask(&Fault {
            address,
            cause: Cause::ActionRequired,
            evidence: Evidence::MemoryFailure,
        })
    }

    /// Pages that are being mended on demand, and how far they have come.
    pub fn progress(&self) -> Vec<Progress> {
        self.shared.mender().progress().collect()
    }

    /// Waits until every fault that has arrived so far is handled, and every page complete.
    pub fn settle(&self) {
        self.shared.assert_elsewhere();
        slot::settle();
    }

    /// Looks at the ledger. A fault that arrives meanwhile waits.
    pub fn with_ledger<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(self.shared.mender().ledger())
    }

    /// Looks at the memory map. A fault that arrives meanwhile waits.
    pub fn with_map<T>(&self, look: impl FnOnce(&MemoryMap) -> T) -> T {
        look(self.shared.mender().map())
    }

    /// The memory as it is now, by guest address.
    pub fn segments(&self) -> Vec<Segment> {
        self.with_map(|map| map.segments().copied().collect())
    }

    /// Whether the frame at `gpa` is lost.
    pub fn is_lost(&self, gpa: Gpa) -> bool {
        self.with_ledger(|ledger| ledger.contains(gpa))
    }

    /// What has happened so far, in numbers.
    pub fn totals(&self) -> Totals {
        self.shared.mender().totals()
    }

    /// Makes memory fail for this process alone: works anywhere, unprivileged.
    pub fn emulated_errors(&self) -> Emulated {
        Emulated::new(Arc::clone(&self.shared))
    }

    /// Makes the kernel treat memory as failed that somebody has touched: needs CAP_SYS_ADMIN and
    /// `CONFIG_MEMORY_FAILURE`, and takes the page out of use until the machine is booted again.
    pub fn madvise_errors(&self) -> Madvise {
        Madvise::new(Arc::clone(&self.shared))
    }

    /// The same as a scrubber finds it: needs debugfs and the module hwpoison-inject besides.
    pub fn corrupt_pfn_errors(&self) -> CorruptPfn {
        CorruptPfn::new(Arc::clone(&self.shared))
    }
}

impl Drop for Pagemend {
    fn drop(&mut self) {
        if !intake::in_menders_process() {
            // A child of a fork has the handle, but no thread to end and no faults to answer.
            std::mem::forget(self.thread.take());
            return;
        }
        self.shared.stop.store(true, Ordering::Release);
        self.shared.ring();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has cleaned up after itself.
            let _ = thread.join();
        }
        intake::uninstall();
        RUNNING.store(false, Ordering::Release);
    }
}
