//! A region of guest memory as `vm-memory` wants it.

use pagemend_core::address::Gpa;
use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::{
    AtomicAccess, FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestUsize,
    MemoryRegionAddress, VolatileSlice,
};

use super::error::into_memory_error;
use super::transfer::{Guarded, Result};
use crate::guard::{GuardError, GuestRegion};

/// A [`GuestRegion`] with the traits of `vm-memory`, and with its dirty bitmap.
///
/// All of `Bytes<MemoryRegionAddress>` is guarded: at a lost frame it returns an error from which
/// [`poisoned_gpa`](super::poisoned_gpa) gets the address.
///
/// A slice or a host address taken from the region is plain memory. `get_slice` touches every cache
/// line before it hands out a slice, and fails if one is lost, so frames that are lost by then
/// cannot be met through it; one that is lost while the slice is in use can.
#[derive(Debug, Clone)]
pub struct GuardedRegion<B = ()> {
    region: GuestRegion,
    bitmap: B,
    file: Option<FileOffset>,
}

impl GuardedRegion {
    /// A region without dirty tracking, or `None` for an empty one, which `vm-memory` has no
    /// notion of.
    pub fn new(region: GuestRegion) -> Option<Self> {
        Self::with_bitmap(region, ())
    }
}

impl<B: Bitmap> GuardedRegion<B> {
    /// A region whose guarded writes are marked in `bitmap`, or `None` for an empty one.
    pub fn with_bitmap(region: GuestRegion, bitmap: B) -> Option<Self> {
        (!region.range().is_empty()).then_some(Self {
            region,
            bitmap,
            file: None,
        })
    }

    /// The same region, saying which file is mapped there. A vhost-user back end is told of it.
    #[must_use]
    pub fn with_file(self, file: FileOffset) -> Self {
        Self {
            file: Some(file),
            ..self
        }
    }

    /// Guarded access by guest physical address.
    pub fn region(&self) -> &GuestRegion {
        &self.region
    }

    fn gpa(&self, offset: u64) -> Result<Gpa> {
        let gpa = self.region.range().at(offset);
        gpa.ok_or(GuestMemoryError::InvalidBackendAddress)
    }

    fn pointer(&self, offset: MemoryRegionAddress, len: usize) -> Result<*mut u8> {
        let pointer = self.region.pointer(self.gpa(offset.0)?, len);
        pointer.map_err(into_memory_error)
    }
}

impl<B: Bitmap> GuestMemoryRegion for GuardedRegion<B> {
    type B = B;

    fn len(&self) -> GuestUsize {
        self.region.range().len()
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.region.range().start().get())
    }

    fn bitmap(&self) -> BS<'_, B> {
        self.bitmap.slice_at(0)
    }

    fn file_offset(&self) -> Option<&FileOffset> {
        self.file.as_ref()
    }

    fn get_host_address(&self, addr: MemoryRegionAddress) -> Result<*mut u8> {
        self.pointer(addr, 1)
    }

    /// Plain memory that had no lost frame a moment ago: see [`GuardedRegion`].
    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, B>>> {
        let pointer = self.pointer(offset, count)?;
        self.touch_available(offset.0, count)?;
        let bitmap = self.bitmap.slice_at(offset.0 as usize);
        // SAFETY: the range lies in the region, which is mapped and has no Rust reference to it,
        // for as long as the region is used.
        Ok(unsafe { VolatileSlice::with_bitmap(pointer, count, bitmap, None) })
    }

    /// All of the region, without a look at it: code that wants all of it wants to map or register
    /// it, and reading a terabyte for that would take minutes.
    fn as_volatile_slice(&self) -> Result<VolatileSlice<'_, BS<'_, B>>> {
        let len = self.region.range().len() as usize;
        let pointer = self.pointer(MemoryRegionAddress(0), len)?;
        // SAFETY: that is the region, which is mapped and has no Rust reference to it, for as long
        // as it is used.
        Ok(unsafe { VolatileSlice::with_bitmap(pointer, len, self.bitmap(), None) })
    }
}

impl<B: Bitmap> Guarded for GuardedRegion<B> {
    fn available(&self, at: u64, len: usize) -> Result<usize> {
        self.gpa(at)?;
        let left = self.region.range().len() - at;
        Ok(usize::try_from(left).map_or(len, |left| left.min(len)))
    }

    fn read_available(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let read = self.region.read(self.gpa(at)?, buffer);
        read.map_err(into_memory_error)
    }

    fn write_available(&self, at: u64, buffer: &[u8]) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let written = self.region.write(self.gpa(at)?, buffer);
        let done = match written {
            Ok(()) => buffer.len(),
            Err(GuardError::Poisoned { done, .. } | GuardError::Buffer { done, .. }) => done,
            Err(_) => 0,
        };
        self.bitmap.mark_dirty(at as usize, done);
        written.map_err(into_memory_error)
    }

    fn touch_available(&self, at: u64, len: usize) -> Result<()> {
        let touched = self.region.touch(self.gpa(at)?, len);
        touched.map_err(into_memory_error)
    }

    fn load_relaxed<T: AtomicAccess>(&self, at: u64) -> Result<T> {
        let gpa = self.gpa(at)?;
        let region = &self.region;
        let mut value = T::zeroed();
        let bytes = value.as_mut_slice();
        match size_of::<T>() {
            1 => region
                .load::<u8>(gpa)
                .map(|v| bytes.copy_from_slice(&v.to_ne_bytes())),
            2 => region
                .load::<u16>(gpa)
                .map(|v| bytes.copy_from_slice(&v.to_ne_bytes())),
            4 => region
                .load::<u32>(gpa)
                .map(|v| bytes.copy_from_slice(&v.to_ne_bytes())),
            8 => region
                .load::<u64>(gpa)
                .map(|v| bytes.copy_from_slice(&v.to_ne_bytes())),
            _ => return Err(GuestMemoryError::InvalidBackendAddress),
        }
        .map_err(into_memory_error)?;
        Ok(value)
    }

    fn store_relaxed<T: AtomicAccess>(&self, at: u64, value: T) -> Result<()> {
        let gpa = self.gpa(at)?;
        let region = &self.region;
        match *value.as_slice() {
            [a] => region.store(gpa, a),
            [a, b] => region.store(gpa, u16::from_ne_bytes([a, b])),
            [a, b, c, d] => region.store(gpa, u32::from_ne_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => {
                region.store(gpa, u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
            }
            _ => return Err(GuestMemoryError::InvalidBackendAddress),
        }
        .map_err(into_memory_error)?;
        self.bitmap.mark_dirty(at as usize, size_of::<T>());
        Ok(())
    }
}
