//! `vm-memory`'s `Bytes` for guarded memory: over offsets in a region, and over guest physical
//! addresses.

use std::sync::atomic::Ordering;

use vm_memory::bitmap::Bitmap;
use vm_memory::{
    AtomicAccess, Bytes, GuestAddress, GuestMemoryError, MemoryRegionAddress, ReadVolatile,
    WriteVolatile,
};

use super::transfer::{self, Result, Want};
use super::{GuardedMemory, GuardedRegion};

macro_rules! bytes {
    ($type:ident, $address:ty) => {
        impl<B: Bitmap> Bytes<$address> for $type<B> {
            type E = GuestMemoryError;

            fn write(&self, buf: &[u8], addr: $address) -> Result<usize> {
                transfer::write(self, addr.0, buf, Want::UpTo)
            }

            fn read(&self, buf: &mut [u8], addr: $address) -> Result<usize> {
                transfer::read(self, addr.0, buf, Want::UpTo)
            }

            fn write_slice(&self, buf: &[u8], addr: $address) -> Result<()> {
                transfer::write(self, addr.0, buf, Want::Exactly).map(drop)
            }

            fn read_slice(&self, buf: &mut [u8], addr: $address) -> Result<()> {
                transfer::read(self, addr.0, buf, Want::Exactly).map(drop)
            }

            fn read_volatile_from<F: ReadVolatile>(
                &self,
                addr: $address,
                src: &mut F,
                count: usize,
            ) -> Result<usize> {
                transfer::fill(self, addr.0, src, count, Want::UpTo)
            }

            fn read_exact_volatile_from<F: ReadVolatile>(
                &self,
                addr: $address,
                src: &mut F,
                count: usize,
            ) -> Result<()> {
                transfer::fill(self, addr.0, src, count, Want::Exactly).map(drop)
            }

            fn write_volatile_to<F: WriteVolatile>(
                &self,
                addr: $address,
                dst: &mut F,
                count: usize,
            ) -> Result<usize> {
                transfer::drain(self, addr.0, dst, count, Want::UpTo)
            }

            fn write_all_volatile_to<F: WriteVolatile>(
                &self,
                addr: $address,
                dst: &mut F,
                count: usize,
            ) -> Result<()> {
                transfer::drain(self, addr.0, dst, count, Want::Exactly).map(drop)
            }

            fn store<T: AtomicAccess>(
                &self,
                val: T,
                addr: $address,
                order: Ordering,
            ) -> Result<()> {
                transfer::store(self, addr.0, val, order)
            }

            fn load<T: AtomicAccess>(&self, addr: $address, order: Ordering) -> Result<T> {
                transfer::load(self, addr.0, order)
            }
        }
    };
}

bytes!(GuardedRegion, MemoryRegionAddress);
bytes!(GuardedMemory, GuestAddress);
