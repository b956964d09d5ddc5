//! The ways to break memory.

use crate::faults::{self, Fault};
use crate::kernel_log::KernelLog;
use crate::trial::{Trial, lacking};
use crate::{memory, pages};
use anyhow::{Context, Result};
use pagemend_lab_protocol::MachineCheck;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where hwpoison-inject takes the number of a page frame.
pub(crate) const CORRUPT: &str = "/sys/kernel/debug/hwpoison/corrupt-pfn";

/// `madvise(MADV_HWPOISON)` on the 4 KiB at an address: as if this thread had touched a bad byte. Gives the signal that came with it.
pub(crate) fn madvise(address: usize) -> (io::Result<()>, Option<Fault>) {
    faults::catching(|| memory::advise(address, memory::KIB_4, libc::MADV_HWPOISON))
}

/// As [`madvise`], while other threads touch the page: the kernel may then find it still in use and say `EBUSY`, or fail to split it and say `EHWPOISON`, and has taken it away all the same. Gives what it said.
pub(crate) fn madvise_in_use(address: usize) -> Result<&'static str> {
    in_use(madvise(address).0)
}

fn in_use(said: io::Result<()>) -> Result<&'static str> {
    match said {
        Ok(()) => Ok("recovered"),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok("still in use (EBUSY)"),
        // What it says of a transparent huge page that cannot be split.
        Err(error) if error.raw_os_error() == Some(libc::EHWPOISON) => Ok("EHWPOISON"),
        Err(error) => Err(error).context("cannot poison"),
    }
}

/// Whether a scrubber's finds can be had, for a scenario that cannot do without.
pub(crate) fn available() -> Result<()> {
    match Path::new(CORRUPT).exists() {
        true => Ok(()),
        false => Err(lacking("this kernel has no hwpoison-inject")),
    }
}

/// A scrubber's find in the page frame behind an address, which must be mapped and present. Gives the frame.
pub(crate) fn corrupt(address: usize) -> Result<u64> {
    available()?;
    let frame = pages::frame(address)?.context("nothing is mapped there to corrupt")?;
    corrupt_frame(frame).with_context(|| format!("cannot corrupt frame {frame:#x}"))?;
    Ok(frame)
}

/// As [`corrupt`], while other threads touch the page. Gives what the kernel said.
pub(crate) fn corrupt_in_use(address: usize) -> Result<&'static str> {
    available()?;
    let frame = pages::frame(address)?.context("nothing is mapped there to corrupt")?;
    in_use(corrupt_frame(frame))
}

/// A scrubber's find in a page frame. When it returns, the kernel has dealt with it.
pub(crate) fn corrupt_frame(frame: u64) -> io::Result<()> {
    fs::write(CORRUPT, format!("{frame:#x}"))
}

/// Takes an error in a page frame back, which is possible where it was not the hardware's.
pub(crate) fn unpoison(frame: u64) -> io::Result<()> {
    fs::write(
        "/sys/kernel/debug/hwpoison/unpoison-pfn",
        format!("{frame:#x}"),
    )
}

/// `madvise(MADV_SOFT_OFFLINE)` on the 4 KiB at an address: corrected errors were too many, take it out of use with its contents moved.
pub(crate) fn soft_offline(address: usize) -> io::Result<()> {
    /// `MADV_SOFT_OFFLINE`.
    const SOFT_OFFLINE: i32 = 101;
    memory::advise(address, memory::KIB_4, SOFT_OFFLINE)
}

/// Physical address of the error inside its page: machine checks are about cache lines.
const LINE: u64 = 0x240;

/// The machine check of a memory scrubber that found an uncorrectable error in a page frame, as Intel processors report it. Returns when the kernel has dealt with it.
pub(crate) fn scrubber(t: &mut Trial, frame: u64) -> Result<()> {
    let mut log = KernelLog::from_now()?;
    t.raise(MachineCheck {
        cpu: 0,
        // Valid, uncorrected, enabled, with address and details, signalled, no action required; memory scrubbing error.
        status: 0xbd00_0000_0000_00c0,
        // Can go on where it was interrupted; a machine check is in progress.
        mcg_status: 0x5,
        address: frame * 4096 + LINE,
        misc: 0x8c,
        broadcast: true,
    })?;
    log.wait_for("recovery action for", t.deadline())?;
    Ok(())
}

/// The machine check of a load from a bad page frame, raised in a thread that is busy reading it. Gives the signal that the thread gets.
pub(crate) fn load_error(t: &mut Trial, address: usize, frame: u64) -> Result<Fault> {
    /// The processor that reads; the other one has the rest to do.
    const CPU: u32 = 1;
    keep_on(0)?;
    let loads = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&loads);
    let reader = std::thread::spawn(move || {
        keep_on(CPU as usize)?;
        Ok::<_, anyhow::Error>(faults::load_until_signal(address, &theirs))
    });
    // Well into its loop: a load's machine check that meets the kernel is one that the kernel cannot survive.
    while loads.load(Ordering::Relaxed) < 100_000 && !reader.is_finished() {
        std::thread::yield_now();
    }
    t.raise(MachineCheck {
        cpu: CPU,
        // As the scrubber's, with action required; data load error.
        status: 0xbd80_0000_0000_0134,
        // The instruction pointer belongs to the error as well.
        mcg_status: 0x7,
        address: frame * 4096 + LINE,
        misc: 0x8c,
        broadcast: true,
    })?;
    reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reading thread panicked"))?
}

/// Keeps this thread on a processor.
fn keep_on(cpu: usize) -> Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    rustix::thread::sched_setaffinity(None, &cpus)
        .with_context(|| format!("cannot keep a thread on processor {cpu}"))
}
