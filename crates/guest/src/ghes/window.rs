//! The piece of guest memory in which firmware and guest meet, as the VMM gives it.

use pagemend_core::address::Gpa;

/// Access to guest memory by guest physical address. Loads and stores are single accesses, in
/// little-endian order and aligned; what comes before a store is seen before it, and what comes
/// after a load happens after it.
///
/// The memory is the guest's too, and may fail like any other: then these give an error.
pub trait Window {
    /// What can go wrong.
    type Error;

    /// Loads 64 bits.
    fn load(&self, gpa: Gpa) -> Result<u64, Self::Error>;

    /// Stores 64 bits.
    fn store(&self, gpa: Gpa, value: u64) -> Result<(), Self::Error>;

    /// Loads 32 bits.
    fn load_half(&self, gpa: Gpa) -> Result<u32, Self::Error>;

    /// Stores 32 bits.
    fn store_half(&self, gpa: Gpa, value: u32) -> Result<(), Self::Error>;

    /// Writes bytes, in any order.
    fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), Self::Error>;
}

#[cfg(all(feature = "kvm", target_arch = "x86_64"))]
mod guarded {
    use std::sync::atomic::{Ordering, fence};

    use pagemend_core::address::Gpa;
    use pagemend_linux::guard::{GuardError, GuestRegion};

    use super::Window;

    /// Memory that pagemend looks after.
    impl Window for GuestRegion {
        type Error = GuardError;

        fn load(&self, gpa: Gpa) -> Result<u64, GuardError> {
            let value = GuestRegion::load::<u64>(self, gpa)?;
            fence(Ordering::Acquire);
            Ok(u64::from_le(value))
        }

        fn store(&self, gpa: Gpa, value: u64) -> Result<(), GuardError> {
            fence(Ordering::Release);
            GuestRegion::store(self, gpa, value.to_le())
        }

        fn load_half(&self, gpa: Gpa) -> Result<u32, GuardError> {
            let value = GuestRegion::load::<u32>(self, gpa)?;
            fence(Ordering::Acquire);
            Ok(u32::from_le(value))
        }

        fn store_half(&self, gpa: Gpa, value: u32) -> Result<(), GuardError> {
            fence(Ordering::Release);
            GuestRegion::store(self, gpa, value.to_le())
        }

        fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), GuardError> {
            GuestRegion::write(self, gpa, bytes)
        }
    }
}
