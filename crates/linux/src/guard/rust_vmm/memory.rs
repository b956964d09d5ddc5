//! All of a guest's memory behind the guard, for `Bytes<GuestAddress>`.

use std::ops::Range;

use vm_memory::bitmap::Bitmap;
use vm_memory::{
    AtomicAccess, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    GuestRegionCollection, MemoryRegionAddress,
};

use super::GuardedRegion;
use super::error::further;
use super::transfer::{Guarded, Result};

/// A guest's memory with `Bytes<GuestAddress>` in which every access is guarded, also across
/// regions: at a lost frame it returns an error from which [`poisoned_gpa`](super::poisoned_gpa)
/// gets the address.
///
/// # Which to give to a device model
///
/// | the device model is generic over | give it | an access to a lost frame |
/// |---|---|---|
/// | `Bytes<GuestAddress>` | this type | is an error, always |
/// | `GuestMemory` or `GuestMemoryBackend` | [`regions`](Self::regions) | is an error, unless the frame was lost between the look and the access |
///
/// The difference comes from `vm-memory` 0.18: it makes `Bytes<GuestAddress>` of every `GuestMemory`
/// out of plain slices, and leaves regions no say in the access itself. All that a region can do is
/// to look at the memory before it hands out the slice, which [`GuardedRegion`] does, one byte of
/// every cache line. So this type is no `GuestMemory`.
#[derive(Debug, Clone)]
pub struct GuardedMemory<B = ()> {
    regions: GuestRegionCollection<GuardedRegion<B>>,
}

impl<B: Bitmap> GuardedMemory<B> {
    /// Guards all access to `regions`.
    pub fn new(regions: GuestRegionCollection<GuardedRegion<B>>) -> Self {
        Self { regions }
    }

    /// The same memory as a `GuestMemory`, with the limits told above.
    pub fn regions(&self) -> &GuestRegionCollection<GuardedRegion<B>> {
        &self.regions
    }

    fn find(&self, at: u64) -> Result<(&GuardedRegion<B>, u64)> {
        let address = GuestAddress(at);
        let found = self.regions.to_region_addr(address);
        let (region, MemoryRegionAddress(offset)) =
            found.ok_or(GuestMemoryError::InvalidGuestAddress(address))?;
        Ok((region, offset))
    }

    /// Calls `access(region, offset, part of 0..len)` for each region in turn.
    fn in_regions(
        &self,
        at: u64,
        len: usize,
        mut access: impl FnMut(&GuardedRegion<B>, u64, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while done < len {
            let (region, offset) = self.find(at + done as u64)?;
            let part = region.available(offset, len - done)?;
            access(region, offset, done..done + part).map_err(|error| further(error, done))?;
            done += part;
        }
        Ok(())
    }
}

impl<B: Bitmap> Guarded for GuardedMemory<B> {
    fn available(&self, at: u64, len: usize) -> Result<usize> {
        let mut next = at;
        let mut found = 0;
        loop {
            let (region, offset) = match self.find(next) {
                Ok(found) => found,
                Err(_) if found > 0 => return Ok(found),
                Err(error) => return Err(error),
            };
            found += region.available(offset, len - found)?;
            match region.last_addr().0.checked_add(1) {
                Some(behind) if found < len => next = behind,
                _ => return Ok(found),
            }
        }
    }

    fn read_available(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        self.in_regions(at, buffer.len(), |region, offset, part| {
            region.read_available(offset, &mut buffer[part])
        })
    }

    fn write_available(&self, at: u64, buffer: &[u8]) -> Result<()> {
        self.in_regions(at, buffer.len(), |region, offset, part| {
            region.write_available(offset, &buffer[part])
        })
    }

    fn touch_available(&self, at: u64, len: usize) -> Result<()> {
        self.in_regions(at, len, |region, offset, part| {
            region.touch_available(offset, part.len())
        })
    }

    fn load_relaxed<T: AtomicAccess>(&self, at: u64) -> Result<T> {
        let (region, offset) = self.find(at)?;
        region.load_relaxed(offset)
    }

    fn store_relaxed<T: AtomicAccess>(&self, at: u64, value: T) -> Result<()> {
        let (region, offset) = self.find(at)?;
        region.store_relaxed(offset, value)
    }
}
