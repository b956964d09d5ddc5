//! Guarded reads, writes and device I/O in the manner of `vm-memory`: the same for one region and
//! for all of them.
//!
//! Device I/O (`read_volatile_from` and its like) goes through a buffer on the stack, because its
//! other end is code that knows nothing of lost frames.

use std::io;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{
    AtomicAccess, GuestMemoryError, ReadVolatile, VolatileMemoryError, VolatileSlice, WriteVolatile,
};

use super::error::{further, is_lost};

pub(super) type Result<T> = std::result::Result<T, GuestMemoryError>;

/// Bytes of device I/O that travel at once. Small enough for the stack of any thread.
const BOUNCE: usize = 16 << 10;

/// What a kind of guest memory must offer for the rest to be built on it.
pub(super) trait Guarded {
    /// How many of `len` bytes the memory holds from `at` on without a gap: at least one of them.
    fn available(&self, at: u64, len: usize) -> Result<usize>;
    /// Reads into all of `buffer`, which is available.
    fn read_available(&self, at: u64, buffer: &mut [u8]) -> Result<()>;
    /// Writes all of `buffer`, which is available.
    fn write_available(&self, at: u64, buffer: &[u8]) -> Result<()>;
    /// Meets any error in `len` bytes, which are available.
    fn touch_available(&self, at: u64, len: usize) -> Result<()>;
    /// Loads with one instruction, relaxed.
    fn load_relaxed<T: AtomicAccess>(&self, at: u64) -> Result<T>;
    /// Stores with one instruction, relaxed.
    fn store_relaxed<T: AtomicAccess>(&self, at: u64, value: T) -> Result<()>;
}

/// How much is to be transferred.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Want {
    /// As much as there is.
    UpTo,
    /// All of it, or an error.
    Exactly,
}

/// How many of `len` bytes from `at` on to transfer.
fn extent(guest: &impl Guarded, at: u64, len: usize, want: Want) -> Result<usize> {
    if len == 0 {
        return Ok(0);
    }
    let available = guest.available(at, len)?;
    if available < len && want == Want::Exactly {
        return Err(GuestMemoryError::PartialBuffer {
            expected: len,
            completed: 0,
        });
    }
    Ok(available)
}

pub(super) fn read(guest: &impl Guarded, at: u64, buffer: &mut [u8], want: Want) -> Result<usize> {
    let len = extent(guest, at, buffer.len(), want)?;
    guest.read_available(at, &mut buffer[..len])?;
    Ok(len)
}

pub(super) fn write(guest: &impl Guarded, at: u64, buffer: &[u8], want: Want) -> Result<usize> {
    let len = extent(guest, at, buffer.len(), want)?;
    guest.write_available(at, &buffer[..len])?;
    Ok(len)
}

/// Fills guest memory from a source of I/O.
///
/// The memory is touched before the source is read, so that data is not taken from a socket or pipe
/// when its destination is lost.
pub(super) fn fill(
    guest: &impl Guarded,
    at: u64,
    source: &mut impl ReadVolatile,
    count: usize,
    want: Want,
) -> Result<usize> {
    let count = extent(guest, at, count, want)?;
    let mut bounce = [0; BOUNCE];
    in_pieces(count, want, io::ErrorKind::UnexpectedEof, |done, len| {
        let at = at + done as u64;
        guest.touch_available(at, len)?;
        let piece = &mut bounce[..len];
        let got = retry(|| source.read_volatile(&mut VolatileSlice::from(&mut *piece)))?;
        guest.write_available(at, &piece[..got])?;
        Ok(got)
    })
}

/// Empties guest memory into a sink of I/O.
pub(super) fn drain(
    guest: &impl Guarded,
    at: u64,
    sink: &mut impl WriteVolatile,
    count: usize,
    want: Want,
) -> Result<usize> {
    let count = extent(guest, at, count, want)?;
    let mut bounce = [0; BOUNCE];
    in_pieces(count, want, io::ErrorKind::WriteZero, |done, len| {
        let piece = &mut bounce[..len];
        guest.read_available(at + done as u64, piece)?;
        retry(|| sink.write_volatile(&VolatileSlice::from(&mut *piece)))
    })
}

/// Calls `transfer(done, len)` until `count` bytes are done, or, where less is wanted too, until it
/// does less than asked.
fn in_pieces(
    count: usize,
    want: Want,
    at_end: io::ErrorKind,
    mut transfer: impl FnMut(usize, usize) -> Result<usize>,
) -> Result<usize> {
    let mut done = 0;
    while done < count {
        let len = BOUNCE.min(count - done);
        match (transfer(done, len), want) {
            (Ok(0), Want::Exactly) => return Err(GuestMemoryError::IOError(at_end.into())),
            (Ok(moved), Want::UpTo) if moved < len => return Ok(done + moved),
            (Ok(moved), _) => done += moved,
            // What was transferred is not undone by a source that has no more for now.
            (Err(error), Want::UpTo) if done > 0 && !is_lost(&error) => return Ok(done),
            (Err(error), _) => return Err(further(error, done)),
        }
    }
    Ok(done)
}

fn retry(mut io: impl FnMut() -> std::result::Result<usize, VolatileMemoryError>) -> Result<usize> {
    loop {
        match io() {
            Err(VolatileMemoryError::IOError(error))
                if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(Into::into),
        }
    }
}

/// A load with `order`, by fences around the relaxed one.
pub(super) fn load<T: AtomicAccess>(guest: &impl Guarded, at: u64, order: Ordering) -> Result<T> {
    if order == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
    let value = guest.load_relaxed(at)?;
    if order != Ordering::Relaxed {
        fence(Ordering::Acquire);
    }
    Ok(value)
}

/// A store with `order`, by fences around the relaxed one.
pub(super) fn store<T: AtomicAccess>(
    guest: &impl Guarded,
    at: u64,
    value: T,
    order: Ordering,
) -> Result<()> {
    match order {
        Ordering::Relaxed => {}
        Ordering::SeqCst => fence(Ordering::SeqCst),
        _ => fence(Ordering::Release),
    }
    guest.store_relaxed(at, value)?;
    if order == Ordering::SeqCst {
        fence(Ordering::SeqCst);
    }
    Ok(())
}
