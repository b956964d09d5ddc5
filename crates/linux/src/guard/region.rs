//! Guarded access by guest physical address, inside one region.

use std::sync::Arc;

use pagemend_core::address::{Address, AddressRange, Gpa, GpaRange, Hva, HvaRange};

use crate::memory::GuestMemory;

use super::access::{
    Fault, Scalar, try_compare_exchange, try_copy, try_load, try_store, try_touch,
};

/// Why a guarded access to guest memory failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuardError {
    /// The access met a lost frame.
    #[error("guest memory at {gpa} is lost ({done} bytes were done before it)")]
    Poisoned {
        /// The first byte that could not be reached; it lies in the lost frame.
        gpa: Gpa,
        /// Bytes from the start of the access that were done: see [`Fault::done`].
        done: usize,
    },
    /// The access does not lie inside the region. Nothing was done.
    #[error("{len} bytes at {gpa} are not all inside the region {region}")]
    OutOfRange {
        /// The first byte asked for.
        gpa: Gpa,
        /// The bytes asked for.
        len: u64,
        /// What the region holds.
        region: GpaRange,
    },
    /// A load, store or exchange of an address that is no multiple of its size. Nothing was done.
    #[error("{gpa} is not aligned to {size} bytes")]
    Misaligned {
        /// The address asked for.
        gpa: Gpa,
        /// Bytes of the value.
        size: usize,
    },
    /// The caller's own buffer lies in lost memory: it is guest memory of another region.
    #[error("the buffer at {address} is lost ({done} bytes were done before it)")]
    Buffer {
        /// The first byte that could not be reached.
        address: Hva,
        /// Bytes from the start of the access that were done.
        done: usize,
    },
}

/// Where a range of guest memory is mapped, with guarded access to it.
///
/// Mapping and unmapping is the VMM's business, unless the memory was made here. Clone it freely.
#[derive(Debug, Clone)]
pub struct GuestRegion {
    gpas: GpaRange,
    hvas: HvaRange,
    /// Memory that must outlive every clone.
    _memory: Option<Arc<GuestMemory>>,
}

impl GuestRegion {
    /// Describes guest memory `gpas` that is mapped from `base` on, or returns `None` where it
    /// would pass the end of the address space.
    ///
    /// # Safety
    ///
    /// As long as this region or a clone of it is used: all of it is mapped readable and writable,
    /// in whole frames, and no Rust reference to any of it exists. What is mapped there may be
    /// lost, be replaced by a mend, and be written by others at any time.
    pub unsafe fn new(gpas: GpaRange, base: Hva) -> Option<Self> {
        let hvas = AddressRange::new(base, gpas.len())?;
        Some(Self {
            gpas,
            hvas,
            _memory: None,
        })
    }

    /// The same, and `memory` stays mapped for as long as this or a clone of it is there.
    pub(crate) fn keeping(self, memory: Option<Arc<GuestMemory>>) -> Self {
        Self {
            _memory: memory,
            ..self
        }
    }

    /// What the region holds.
    pub fn range(&self) -> GpaRange {
        self.gpas
    }

    /// Where it is mapped.
    pub fn mapped_at(&self) -> HvaRange {
        self.hvas
    }

    /// Reads guest memory from `gpa` on until `buffer` is full.
    ///
    /// # Errors
    ///
    /// [`GuardError::Poisoned`] at a lost frame: `done` bytes of `buffer` are filled.
    /// [`GuardError::OutOfRange`], [`GuardError::Buffer`].
    #[inline]
    pub fn read(&self, gpa: Gpa, buffer: &mut [u8]) -> Result<(), GuardError> {
        let from = self.pointer(gpa, buffer.len())?;
        // SAFETY: the range lies in the region, which is mapped; the buffer is the caller's alone.
        unsafe { try_copy(buffer.as_mut_ptr(), from, buffer.len()) }.map_err(|f| self.error(f))
    }

    /// Writes all of `buffer` to guest memory from `gpa` on.
    ///
    /// # Errors
    ///
    /// [`GuardError::Poisoned`] at a lost frame: `done` bytes are written, the rest is unchanged.
    /// [`GuardError::OutOfRange`], [`GuardError::Buffer`].
    #[inline]
    pub fn write(&self, gpa: Gpa, buffer: &[u8]) -> Result<(), GuardError> {
        let to = self.pointer(gpa, buffer.len())?;
        // SAFETY: the range lies in the region, which is mapped and has no Rust reference to it.
        unsafe { try_copy(to, buffer.as_ptr(), buffer.len()) }.map_err(|f| self.error(f))
    }

    /// Copies `len` bytes of guest memory, as if through a buffer where the ranges overlap.
    ///
    /// # Errors
    ///
    /// [`GuardError::Poisoned`] with the address in whichever range is lost: `done` bytes are
    /// copied (see [`Fault::done`] for overlapping ranges). [`GuardError::OutOfRange`].
    pub fn copy_within(&self, from: Gpa, to: Gpa, len: usize) -> Result<(), GuardError> {
        let from = self.pointer(from, len)?;
        let to = self.pointer(to, len)?;
        // SAFETY: both ranges lie in the region, which is mapped and has no Rust reference to it.
        unsafe { try_copy(to, from, len) }.map_err(|f| self.error(f))
    }

    /// Loads a value in the host's byte order with one instruction, relaxed.
    ///
    /// # Errors
    ///
    /// [`GuardError::Poisoned`], [`GuardError::OutOfRange`], [`GuardError::Misaligned`].
    #[inline]
    pub fn load<T: Scalar>(&self, gpa: Gpa) -> Result<T, GuardError> {
        let from = self.aligned(gpa)?;
        // SAFETY: aligned, and inside the region, which is mapped.
        unsafe { try_load(from) }.map_err(|f| self.error(f))
    }

    /// Stores a value in the host's byte order with one instruction, relaxed.
    ///
    /// # Errors
    ///
    /// [`GuardError::Poisoned`], [`GuardError::OutOfRange`], [`GuardError::Misaligned`]; nothing
    /// was written.
    #[inline]
    pub fn store<T: Scalar>(&self, gpa: Gpa, value: T) -> Result<(), GuardError> {
        let to = self.aligned(gpa)?;
        // SAFETY: aligned, and inside the region, which is mapped and has no Rust reference to it.
        unsafe { try_store(to, value) }.map_err(|f| self.error(f))
    }

    /// Replaces `expected` by `new` in one atomic step, sequentially consistent. The inner result
    /// is the value that was there: `Ok` where it was `expected`, else `Err`.
    ///
    /// # Errors
    ///
    /// [`GuardError::Poisoned`], [`GuardError::OutOfRange`], [`GuardError::Misaligned`]; nothing
    /// was written.
    pub fn compare_exchange<T: Scalar>(
        &self,
        gpa: Gpa,
        expected: T,
        new: T,
    ) -> Result<Result<T, T>, GuardError> {
        let at = self.aligned(gpa)?;
        // SAFETY: aligned, and inside the region, which is mapped and has no Rust reference to it.
        unsafe { try_compare_exchange(at, expected, new) }.map_err(|f| self.error(f))
    }

    /// Reads one byte in every cache line of `len` bytes from `gpa` on, so that an error in them is
    /// met here and not by an unguarded access that follows.
    ///
    /// # Errors
    ///
    /// [`GuardError::Poisoned`], [`GuardError::OutOfRange`].
    #[inline]
    pub fn touch(&self, gpa: Gpa, len: usize) -> Result<(), GuardError> {
        let from = self.pointer(gpa, len)?;
        // SAFETY: the range lies in the region, which is mapped in whole frames.
        unsafe { try_touch(from, len) }.map_err(|f| self.error(f))
    }

    /// The mapping of `len` bytes from `gpa` on. An empty range may start at the region's end.
    pub(super) fn pointer(&self, gpa: Gpa, len: usize) -> Result<*mut u8, GuardError> {
        let out_of_range = GuardError::OutOfRange {
            gpa,
            len: len as u64,
            region: self.gpas,
        };
        let offset = gpa.get().checked_sub(self.gpas.start().get());
        let inside = offset.and_then(|offset| self.hvas.slice(offset, len as u64));
        let hva = inside.ok_or(out_of_range)?.start().raw();
        Ok(std::ptr::with_exposed_provenance_mut(hva as usize))
    }

    fn aligned<T: Scalar>(&self, gpa: Gpa) -> Result<*mut T, GuardError> {
        let size = size_of::<T>();
        let pointer = self.pointer(gpa, size)?;
        if pointer.addr() % size == 0 {
            Ok(pointer.cast())
        } else {
            Err(GuardError::Misaligned { gpa, size })
        }
    }

    fn error(&self, Fault { address, done }: Fault) -> GuardError {
        let gpa = self.hvas.offset_of(address).and_then(|o| self.gpas.at(o));
        match gpa {
            Some(gpa) => GuardError::Poisoned { gpa, done },
            None => GuardError::Buffer { address, done },
        }
    }
}
