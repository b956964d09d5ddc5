//! Errors that the kernel is made to believe in: it then does all that it does at a real one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use pagemend_core::address::{FRAME_SIZE, Gpa, Hva, PageSize};
use pagemend_core::ledger::Cause;

use super::{Inject, InjectError, locate};
use crate::intake::slot;
use crate::mapping::advise;
use crate::runtime::{Shared, VcpuThread};

/// `madvise(MADV_HWPOISON)`: an error that the thread which says so has met.
pub struct Madvise {
    shared: Arc<Shared>,
}

impl Madvise {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Inject for Madvise {
    fn name(&self) -> &'static str {
        "madvise"
    }

    /// The kernel tells nobody but the thread that does this, which passes it on to the mender only
    /// for [`Cause::ActionOptional`].
    fn inject(&self, gpa: Gpa, cause: Cause) -> Result<(), InjectError> {
        let hva = locate(&self.shared, gpa)?.frame();
        // The signal means no access that could be executed again. So does a vCPU's: it is kept and
        // asked about. On a thread of its own, because the caller's may be a vCPU's already.
        let poisoned = thread::scope(|scope| scope.spawn(|| self.poison(hva, cause)).join());
        poisoned.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Madvise {
    fn poison(&self, hva: Hva, cause: Cause) -> Result<(), InjectError> {
        let call = |call, source| InjectError::Call { call, source };
        let places = Arc::clone(&self.shared.places);
        let mut thread = VcpuThread::new(places).map_err(|error| {
            call(
                "registering the thread that injects",
                io::Error::other(error),
            )
        })?;
        // SAFETY: what the frame held is to be lost, which is the point.
        let done =
            thread.run(|| unsafe { advise(hva, PageSize::SIZE_4K.bytes(), libc::MADV_HWPOISON) });
        let told = match cause {
            Cause::ActionRequired => thread.has_fault(),
            Cause::ActionOptional => thread.take_fault().is_some(),
        };
        // A page that others use meanwhile is taken away as well, though the kernel says EBUSY.
        if told {
            return Ok(());
        }
        done.map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => InjectError::NotPermitted {
                method: "madvise(MADV_HWPOISON)",
            },
            Some(libc::EINVAL) => InjectError::NoMemoryFailure,
            _ => call("madvise(MADV_HWPOISON)", source),
        })
    }
}

/// The module hwpoison-inject: an error that a scrubber has found.
pub struct CorruptPfn {
    shared: Arc<Shared>,
}

impl CorruptPfn {
    const FILE: &str = "/sys/kernel/debug/hwpoison/corrupt-pfn";

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Inject for CorruptPfn {
    fn name(&self) -> &'static str {
        "corrupt-pfn"
    }

    /// Whether the mender is told is decided when it is [built](crate::Builder::early_kill), so only
    /// the cause that goes with that can be had.
    fn inject(&self, gpa: Gpa, cause: Cause) -> Result<(), InjectError> {
        let early_kill = self.shared.early_kill;
        if early_kill != (cause == Cause::ActionOptional) {
            return Err(InjectError::OtherCause { early_kill });
        }
        if !Path::new(EARLY_KILL).exists() {
            return Err(InjectError::NoMemoryFailure);
        }
        let hva = locate(&self.shared, gpa)?.frame();
        let frame = page_frame(hva)?.ok_or(InjectError::NoMemory { gpa })?;
        match tell_kernel(frame) {
            Ok(()) => {}
            // It is taken away all the same, or was already.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EHWPOISON)) => {}
            Err(source) => {
                return Err(InjectError::NoHwpoisonInject {
                    path: Self::FILE,
                    source,
                });
            }
        }
        // The signal is there when the write returns, if one is sent.
        slot::settle();
        Ok(())
    }
}

/// There on every kernel with CONFIG_MEMORY_FAILURE, and on no other.
const EARLY_KILL: &str = "/proc/sys/vm/memory_failure_early_kill";

fn tell_kernel(frame: u64) -> io::Result<()> {
    // Not one call of `fs`, which would ask for the file to be made: a VMM may not be allowed that.
    let mut file = OpenOptions::new().write(true).open(CorruptPfn::FILE)?;
    file.write_all(format!("{frame:#x}").as_bytes())
}

/// The page frame behind an address, or `None` where there is none. 0, which the kernel gives those
/// who may not know, means that (Documentation/admin-guide/mm/pagemap.rst).
fn page_frame(hva: Hva) -> Result<Option<u64>, InjectError> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    let mut entry = [0; 8];
    let read = File::open("/proc/self/pagemap")
        .and_then(|pagemap| pagemap.read_exact_at(&mut entry, hva.get() / FRAME_SIZE * 8));
    read.map_err(|source| InjectError::Call {
        call: "reading /proc/self/pagemap",
        source,
    })?;
    let entry = u64::from_ne_bytes(entry);
    match (entry & PRESENT, entry & FRAME) {
        (0, _) => Ok(None),
        (_, 0) => Err(InjectError::NotPermitted {
            method: "corrupt-pfn",
        }),
        (_, frame) => Ok(Some(frame)),
    }
}
