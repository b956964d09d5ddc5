//! Making memory fail on purpose, behind one trait whatever does it.

mod kernel;

use std::io;
use std::sync::Arc;

use pagemend_core::address::{Gpa, Hva, PageSize};
use pagemend_core::ledger::{Cause, Enforcement};

use super::Shared;
use crate::intake::notice::BUS_MCEERR_AO;
use crate::intake::slot;

pub use kernel::{CorruptPfn, Madvise};

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
    #[error("{method} needs CAP_SYS_ADMIN")]
    NotPermitted {
        /// The way that was tried.
        method: &'static str,
    },
    /// The file through which a scrubber is pretended is not there.
    #[error("{path} cannot be written to: mount debugfs and load the module hwpoison-inject")]
    NoHwpoisonInject {
        /// The file.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The mender hears of it before anybody touches it, or nobody does, and the other was asked for.
    #[error("an error found by a scrubber is {}", if *.early_kill {
        "told early: build with early_kill(false) to have it met by a touch"
    } else {
        "not told: build with early_kill(true) to have it told"
    })]
    OtherCause {
        /// Whether the mender was built to be told early.
        early_kill: bool,
    },
    /// The kernel has the page nowhere in memory.
    #[error("there is no memory at {gpa} yet: touch it first")]
    NoMemory {
        /// The address.
        gpa: Gpa,
    },
    /// The kernel cannot do that.
    #[error("this kernel has no CONFIG_MEMORY_FAILURE: use emulated errors")]
    NoMemoryFailure,
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
    let mender = shared.mender();
    // One that was healed is memory that can fail.
    if mender.ledger().enforcement(gpa) == Some(Enforcement::Host) {
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
