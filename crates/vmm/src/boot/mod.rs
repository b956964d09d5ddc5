//! From a payload to the first instruction: loading, tables, and where each vCPU starts.

mod bios;
mod linux;
mod long_mode;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use pagemend::{Gpa, GpaRange, GuardError};

use crate::acpi;
use crate::config::Payload;
use crate::layout;
use crate::memory::Ram;

pub(crate) use long_mode::{USER_CODE, USER_DATA, enter as enter_long_mode};

/// Why a payload cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// A file of the payload cannot be read.
    #[error("{path} cannot be read", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel is of no known format, or does not fit.
    #[error("{path} is no bzImage and no ELF kernel that can be loaded", path = .path.display())]
    Kernel {
        /// Which.
        path: PathBuf,
        /// What the loader said last.
        source: linux_loader::loader::Error,
    },
    /// The kernel cannot be entered in 64-bit mode.
    #[error(
        "{path} has no 64-bit entry point: a kernel from 3.8 on, for x86_64, has one",
        path = .path.display()
    )]
    No64BitEntry {
        /// Which.
        path: PathBuf,
    },
    /// The command line is too long, or has characters that none may have.
    #[error("the kernel's command line cannot be used")]
    Cmdline(#[source] linux_loader::cmdline::Error),
    /// The payload is larger than the memory that is there for it.
    #[error(
        "{what} has {len} bytes or more, and there is room for {room}: give the guest more memory"
    )]
    TooLarge {
        /// What does not fit.
        what: &'static str,
        /// Its size in bytes, as far as it was read.
        len: u64,
        /// The bytes that there are.
        room: u64,
    },
    /// Guest memory failed while it was written.
    #[error("guest memory cannot be written")]
    Memory(#[from] GuardError),
    /// Guest memory failed while it was written by the loader.
    #[error("guest memory cannot be written")]
    Loader(#[source] vm_memory::GuestMemoryError),
}

/// Where vCPUs start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The first instruction.
    pub(crate) rip: Gpa,
    /// What the payload finds in RSI.
    pub(crate) rsi: u64,
    /// Whether all vCPUs start there, rather than the first alone.
    pub(crate) all: bool,
}

/// Loads `payload` into fresh memory. `before` is what the guest had lost when it was last reset.
pub(crate) fn load(
    payload: &Payload,
    ram: &Ram,
    vcpus: u8,
    before: &[Gpa],
) -> Result<Entry, BootError> {
    let mapped = ram.ranges().last().map_or(0, |range| range.end().get());
    long_mode::write_tables(ram, mapped)?;
    bios::write(ram)?;
    match payload {
        Payload::Linux {
            kernel,
            initrd,
            cmdline,
        } => {
            let root = acpi::write_tables(ram, vcpus, before)?;
            linux::load(kernel, initrd.as_deref(), cmdline, root, ram)
        }
        Payload::Flat(code) => {
            let room = room_above(ram, layout::HIGH_MEMORY);
            if code.len() as u64 > room.len() {
                return Err(BootError::TooLarge {
                    what: "the flat payload",
                    len: code.len() as u64,
                    room: room.len(),
                });
            }
            ram.write(layout::HIGH_MEMORY, code)?;
            Ok(Entry {
                rip: layout::HIGH_MEMORY,
                rsi: mapped,
                all: true,
            })
        }
    }
}

/// What is left of low memory from `start` to what is firmware's.
fn room_above(ram: &Ram, start: Gpa) -> GpaRange {
    let len = ram.firmware().start().get().saturating_sub(start.get());
    GpaRange::new(start, len).expect("low memory ends far below the end of the address space")
}
