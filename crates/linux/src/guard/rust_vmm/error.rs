//! How a [`GuardError`] travels inside a [`GuestMemoryError`], and how to get it out again.

use std::io;

use pagemend_core::address::Gpa;
use vm_memory::GuestMemoryError;

use crate::guard::GuardError;

/// The guest physical address at which an access failed on a lost frame, or `None` for an error of
/// another kind.
pub fn poisoned_gpa(error: &GuestMemoryError) -> Option<Gpa> {
    match guard_error(error)? {
        GuardError::Poisoned { gpa, .. } => Some(*gpa),
        _ => None,
    }
}

/// Whether the access met lost memory.
pub(super) fn is_lost(error: &GuestMemoryError) -> bool {
    guard_error(error).is_some()
}

fn guard_error(error: &GuestMemoryError) -> Option<&GuardError> {
    match error {
        GuestMemoryError::IOError(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// The same failure as `vm-memory` would report it. Lost memory is an I/O error there.
pub(super) fn into_memory_error(error: GuardError) -> GuestMemoryError {
    match error {
        GuardError::OutOfRange { .. } | GuardError::Misaligned { .. } => {
            GuestMemoryError::InvalidBackendAddress
        }
        lost => GuestMemoryError::IOError(io::Error::other(lost)),
    }
}

/// The same error, for an access that had done `before` bytes when the failing part began.
pub(super) fn further(error: GuestMemoryError, before: usize) -> GuestMemoryError {
    match guard_error(&error) {
        Some(&GuardError::Poisoned { gpa, done }) => into_memory_error(GuardError::Poisoned {
            gpa,
            done: done + before,
        }),
        Some(&GuardError::Buffer { address, done }) => into_memory_error(GuardError::Buffer {
            address,
            done: done + before,
        }),
        _ => error,
    }
}
