//! Making memory fail on purpose, behind one trait whatever does it.

use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

use pagemend_core::address::{Gpa, Hva, PageSize};
use pagemend_core::ledger::Cause;
use pagemend_core::mender::Mender;

use super::{Shared, VcpuThread};
use crate::host::LinuxHost;
use crate::intake::notice::BUS_MCEERR_AO;
use crate::intake::slot;
use crate::mapping::advise;

/// Why memory was not made to fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InjectError {
    /// Not guest memory.
    #[error("{gpa} is no guest memory")]
    Unknown {
        /// The address.
        gpa: Gpa,
    },
    /// It is lost already.
    #[error("the frame at {gpa} is lost already")]
    Lost {
        /// The frame.
        gpa: Gpa,
    },
    /// The process may not do that.
    #[error("{call} needs CAP_SYS_ADMIN: run as root, or use emulated errors")]
    NotPermitted {
        /// What was tried.
        call: &'static str,
    },
    /// The kernel cannot do that.
    #[error("this kernel has no CONFIG_MEMORY_FAILURE: use emulated errors")]
    NoMemoryFailure,
    /// The kernel could, with a module that is not there.
    #[error(
        "there is no {file}: `modprobe hwpoison-inject`, and `mount -t debugfs debugfs \
         /sys/kernel/debug` where that is empty"
    )]
    NoInjector {
        /// What the module has.
        file: &'static str,
    },
    /// The kernel refused.
    #[error("{call}")]
    Call {
        /// What was done.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A way to make memory fail.
pub trait Inject: Send + Sync {
    /// What operators call it.
    fn name(&self) -> &'static str;

    /// Makes the frame at `gpa` fail. With [`Cause::ActionRequired`] nobody hears of it before
    /// somebody touches the page; with [`Cause::ActionOptional`] the mender is told, and has
    /// dealt with it when this returns.
    fn inject(&self, gpa: Gpa, cause: Cause) -> Result<(), InjectError>;
}

fn locate(shared: &Shared, gpa: Gpa) -> Result<Hva, InjectError> {
    locate_in(&shared.mender(), gpa)
}

pub(super) fn locate_in(mender: &Mender<LinuxHost>, gpa: Gpa) -> Result<Hva, InjectError> {
    if mender.ledger().contains(gpa) {
        return Err(InjectError::Lost { gpa: gpa.frame() });
    }
    match mender.map().locate_gpa(gpa) {
        Some(location) => Ok(location.hva),
        None => Err(InjectError::Unknown { gpa }),
    }
}

/// Errors that only this process knows of.
pub struct Emulated {
    shared: Arc<Shared>,
}

impl Emulated {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// Sends the calling thread the signal that the kernel would send: no other thread may send it
/// this one.
pub(super) fn notify_self(hva: Hva) -> io::Result<()> {
    let notice = Notice {
        signo: libc::SIGBUS,
        errno: 0,
        code: BUS_MCEERR_AO,
        _pad: 0,
        address: hva.get(),
        lsb: i16::from(PageSize::SIZE_4K.shift()),
        _rest: [0; 51],
    };
    // SAFETY: the struct is as large as the kernel's siginfo and laid out like it.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            libc::getpid(),
            libc::gettid(),
            libc::SIGBUS,
            &raw const notice,
        )
    };
    match sent {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `siginfo_t` of a SIGBUS on 64-bit Linux (include/uapi/asm-generic/siginfo.h).
#[repr(C)]
struct Notice {
    signo: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    address: u64,
    lsb: i16,
    _rest: [i16; 51],
}

const _: () = assert!(size_of::<Notice>() == size_of::<libc::siginfo_t>());

impl Inject for Emulated {
    fn name(&self) -> &'static str {
        "emulated"
    }

    fn inject(&self, gpa: Gpa, cause: Cause) -> Result<(), InjectError> {
        let hva = locate(&self.shared, gpa)?;
        {
            let mut mender = self.shared.mender();
            let location = mender
                .map()
                .locate_gpa(gpa)
                .ok_or(InjectError::Unknown { gpa })?;
            let segment = *location.segment;
            mender
                .host_mut()
                .emulate_failure(&segment, gpa, hva)
                .map_err(|source| InjectError::Call {
                    call: "marking the page with userfaultfd",
                    source,
                })?;
        }
        if cause == Cause::ActionOptional {
            self.shared.pretended().push_back(hva);
            slot::settle();
        }
        Ok(())
    }
}

/// Errors that the kernel is made to believe in.
pub struct Madvise {
    shared: Arc<Shared>,
}

impl Madvise {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Inject for Madvise {
    fn name(&self) -> &'static str {
        "madvise"
    }

    /// To the kernel, whoever does this has touched the frame: it is an action required whatever
    /// `cause` says, and the mender has dealt with it when this returns.
    fn inject(&self, gpa: Gpa, _cause: Cause) -> Result<(), InjectError> {
        let hva = locate(&self.shared, gpa)?.align_down(PageSize::SIZE_4K);
        // The signal goes to the thread that does it, and means no access that could be executed
        // again. So does a vCPU's: it is kept and asked about. On a thread of its own, because the
        // caller's may be a vCPU's already.
        let poisoned = thread::scope(|scope| scope.spawn(|| poison(hva)).join());
        poisoned.unwrap_or_else(|panic| resume_unwind(panic))
    }
}

fn poison(hva: Hva) -> Result<(), InjectError> {
    let call = |call, source| InjectError::Call { call, source };
    let mut thread = VcpuThread::new().map_err(|error| {
        call(
            "registering the thread that injects",
            io::Error::other(error),
        )
    })?;
    // SAFETY: what the frame held is to be lost, which is the point.
    let done =
        thread.run(|| unsafe { advise(hva, PageSize::SIZE_4K.bytes(), libc::MADV_HWPOISON) });
    // A page that others use meanwhile is taken away as well, though the kernel says EBUSY.
    if thread.take_fault().is_some() {
        return Ok(());
    }
    done.map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => InjectError::NotPermitted {
            call: "madvise(MADV_HWPOISON)",
        },
        Some(libc::EINVAL) => InjectError::NoMemoryFailure,
        _ => call("madvise(MADV_HWPOISON)", source),
    })
}
