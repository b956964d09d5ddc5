//! A memory failure as it arrives, and the answer that the one who met it waits for.

use serde::{Deserialize, Serialize};

use crate::address::{Gpa, Hva};
use crate::ledger::Cause;

/// A report that memory has failed: a signal, or an error from a system call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The address that was reported. Never its `si_addr_lsb`: KVM on x86 always says 12, so the
    /// damage is the page size of what is mapped there.
    pub address: Hva,
    /// Whether somebody touched it.
    pub cause: Cause,
    /// How sure it is that memory failed.
    pub evidence: Evidence,
}

/// How sure it is that memory failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evidence {
    /// The kernel said so: `BUS_MCEERR_AR`, `BUS_MCEERR_AO`, `EHWPOISON`.
    MemoryFailure,
    /// The kernel said only that the address has no memory: `BUS_ADRERR`. It is what a poison
    /// marker gives on a kernel without `CONFIG_MEMORY_FAILURE`, and also what an exhausted pool
    /// or a truncated file gives.
    AddressError,
}

/// What the host finds when it looks at a reported address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// It can be read: what was wrong has been put right in the meantime, or the kernel could not
    /// take it out of the mappings.
    Readable,
    /// It faults, and a memory failure is why.
    Poisoned,
    /// It faults for a reason that is not a memory failure.
    Foreign,
}

/// The answer to a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// The address can be used again: execute the access once more.
    Mended,
    /// The bytes at the address are gone for good, which is in the ledger and has been told.
    Lost {
        /// The lost frame.
        gpa: Gpa,
    },
    /// No guest memory, or no memory failure: whoever handled such signals before decides.
    NotOurs,
}
