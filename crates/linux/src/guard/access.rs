//! Guarded access by pointer: what the assembly offers, as Rust functions that return a [`Fault`].

use pagemend_core::address::Hva;
use sealed::Outcome;

#[cfg(target_arch = "aarch64")]
use super::aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use super::x86_64 as arch;

unsafe extern "C" {
    fn pagemend_guard_copy_wide(to: *mut u8, from: *const u8, len: usize) -> Outcome;
    fn pagemend_guard_copy_exact(to: *mut u8, from: *const u8, len: usize) -> Outcome;
    fn pagemend_guard_touch(from: *const u8, unused: usize, len: usize) -> Outcome;
}

/// A guarded access met memory that cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the memory at {address} is lost")]
pub struct Fault {
    /// The first byte that could not be read or written.
    pub address: Hva,
    /// Bytes from the start of the access that were done. They are complete, and nothing behind
    /// them was written, with two exceptions. A copy to an overlapping higher address runs from its
    /// end, and `done` is 0. And arm64 leaves it open whether a store that straddles the end of a
    /// lost frame writes its part in the next one (at most 31 bytes).
    pub done: usize,
}

/// Bytes in a cache line: an error is seen by reading any byte of its line.
const LINE: usize = 64;

/// Copies `len` bytes in ascending order and stops at the first that cannot be reached. Overlapping
/// ranges are copied as if through a buffer.
///
/// # Errors
///
/// [`Fault`] with the exact count of bytes copied, where either range meets lost memory.
///
/// # Safety
///
/// Both ranges are mapped, `from` for reading and `to` for writing, and stay mapped; no Rust
/// reference to `to` is in use elsewhere. The memory may be lost, and other threads, devices or a
/// guest may change it meanwhile.
#[inline]
pub unsafe fn try_copy(to: *mut u8, from: *const u8, len: usize) -> Result<(), Fault> {
    let ahead = to.addr().wrapping_sub(from.addr());
    let behind = from.addr().wrapping_sub(to.addr());
    if ahead != 0 && ahead < len {
        // SAFETY: as promised by the caller.
        return unsafe { copy_from_the_end(to, from, len) };
    }
    // A landing in the wide copy copies its last block again, which is the same bytes only where
    // the two ranges are apart.
    let outcome = if behind < len || arch::exact_is_fast(len) {
        // SAFETY: as promised by the caller.
        unsafe { pagemend_guard_copy_exact(to, from, len) }
    } else {
        // SAFETY: as promised by the caller.
        unsafe { pagemend_guard_copy_wide(to, from, len) }
    };
    if outcome.left == 0 {
        return Ok(());
    }
    let done = len - outcome.left;
    let stopped_at = [from.addr() + done, to.addr() + done];
    Err(Fault {
        address: reached(outcome.value, stopped_at),
        done,
    })
}

/// Which of two next bytes was out of reach. The kernel reports the byte itself, or the start of
/// the page around it where it was told of the error by the hardware.
fn reached(reported: u64, next: [usize; 2]) -> Hva {
    let distance = |next: &usize| (*next as u64).wrapping_sub(reported);
    let [from, to] = next;
    let address = if distance(&to) < distance(&from) {
        to
    } else {
        from
    };
    Hva::new(address as u64)
}

/// The copy to an overlapping higher address, in pieces through a buffer, last piece first.
///
/// # Safety
///
/// That of [`try_copy`].
#[cold]
unsafe fn copy_from_the_end(to: *mut u8, from: *const u8, len: usize) -> Result<(), Fault> {
    let mut buffer = [0; 4096];
    let mut left = len;
    while left > 0 {
        let piece = left.min(buffer.len());
        left -= piece;
        // SAFETY: the piece lies inside the caller's ranges, and the buffer is apart from both.
        let moved = unsafe {
            try_copy(buffer.as_mut_ptr(), from.add(left), piece)
                .and_then(|()| try_copy(to.add(left), buffer.as_ptr(), piece))
        };
        moved.map_err(|fault| Fault { done: 0, ..fault })?;
    }
    Ok(())
}

/// Reads one byte in every cache line of a range, so that an error in it is met here.
///
/// # Errors
///
/// [`Fault`] with the bytes before the first line that cannot be read.
///
/// # Safety
///
/// The frames that hold the range are mapped for reading, and stay mapped. The memory may be lost.
#[inline]
pub unsafe fn try_touch(from: *const u8, len: usize) -> Result<(), Fault> {
    if len == 0 {
        return Ok(());
    }
    let into_line = from.addr() % LINE;
    let lines = (into_line + len).next_multiple_of(LINE);
    // SAFETY: the lines lie in the frames that the caller says are mapped.
    let outcome = unsafe { pagemend_guard_touch(from.wrapping_sub(into_line), 0, lines) };
    if outcome.left == 0 {
        return Ok(());
    }
    let done = (lines - outcome.left).saturating_sub(into_line);
    Err(Fault {
        address: Hva::new((from.addr() + done) as u64),
        done,
    })
}

/// An integer that one instruction loads, stores or exchanges.
pub trait Scalar: Copy + Eq + sealed::Scalar {}

mod sealed {
    /// What every guarded function returns, in the two return registers.
    #[repr(C)]
    pub struct Outcome {
        /// Zero for success; else the bytes not copied, or one for a refused load or store.
        pub left: usize,
        /// The value on success, the address that faulted otherwise.
        pub value: u64,
    }

    /// The instructions for one width. Values travel zero-extended to 64 bits.
    ///
    /// # Safety
    ///
    /// Each function requires that its pointer is aligned and mapped for what it does.
    pub trait Scalar: Sized {
        unsafe fn load(from: *const Self) -> Outcome;
        unsafe fn store(to: *mut Self, value: Self) -> Outcome;
        unsafe fn exchange(at: *mut Self, expected: Self, new: Self) -> Outcome;
        fn from_bits(bits: u64) -> Self;
    }
}

macro_rules! scalar {
    ($type:ty, $load:ident, $store:ident, $exchange:ident) => {
        unsafe extern "C" {
            fn $load(from: *const $type) -> Outcome;
            fn $store(to: *mut $type, value: u64) -> Outcome;
            fn $exchange(at: *mut $type, expected: u64, new: u64) -> Outcome;
        }

        impl Scalar for $type {}

        impl sealed::Scalar for $type {
            unsafe fn load(from: *const Self) -> Outcome {
                // SAFETY: as promised by the caller.
                unsafe { $load(from) }
            }
            unsafe fn store(to: *mut Self, value: Self) -> Outcome {
                // SAFETY: as promised by the caller.
                unsafe { $store(to, value.into()) }
            }
            unsafe fn exchange(at: *mut Self, expected: Self, new: Self) -> Outcome {
                // SAFETY: as promised by the caller.
                unsafe { $exchange(at, expected.into(), new.into()) }
            }
            fn from_bits(bits: u64) -> Self {
                bits as Self
            }
        }
    };
}

scalar!(
    u8,
    pagemend_guard_load8,
    pagemend_guard_store8,
    pagemend_guard_exchange8
);
scalar!(
    u16,
    pagemend_guard_load16,
    pagemend_guard_store16,
    pagemend_guard_exchange16
);
scalar!(
    u32,
    pagemend_guard_load32,
    pagemend_guard_store32,
    pagemend_guard_exchange32
);
scalar!(
    u64,
    pagemend_guard_load64,
    pagemend_guard_store64,
    pagemend_guard_exchange64
);

/// The value of a successful access to `at`.
fn value_of(outcome: Outcome, at: usize) -> Result<u64, Fault> {
    match outcome.left {
        0 => Ok(outcome.value),
        _ => Err(Fault {
            address: Hva::new(at as u64),
            done: 0,
        }),
    }
}

/// Loads a value with one instruction, relaxed: put a [`fence`](std::sync::atomic::fence) behind it
/// where order matters.
///
/// # Errors
///
/// [`Fault`] where the memory is lost.
///
/// # Safety
///
/// `from` is aligned to the size of `T` and mapped for reading. The memory may be lost.
#[inline]
pub unsafe fn try_load<T: Scalar>(from: *const T) -> Result<T, Fault> {
    // SAFETY: as promised by the caller.
    value_of(unsafe { T::load(from) }, from.addr()).map(T::from_bits)
}

/// Stores a value with one instruction, relaxed: put a [`fence`](std::sync::atomic::fence) before
/// it where order matters.
///
/// # Errors
///
/// [`Fault`] where the memory is lost; then nothing was written.
///
/// # Safety
///
/// `to` is aligned to the size of `T` and mapped for writing, and no Rust reference to it is in use
/// elsewhere. The memory may be lost.
#[inline]
pub unsafe fn try_store<T: Scalar>(to: *mut T, value: T) -> Result<(), Fault> {
    // SAFETY: as promised by the caller.
    value_of(unsafe { T::store(to, value) }, to.addr()).map(drop)
}

/// Replaces `expected` by `new` in one atomic step, sequentially consistent. The inner result is
/// the value that was there: `Ok` where it was `expected`, else `Err` and nothing was written.
///
/// # Errors
///
/// [`Fault`] where the memory is lost; then nothing was written.
///
/// # Safety
///
/// That of [`try_store`].
#[inline]
pub unsafe fn try_compare_exchange<T: Scalar>(
    at: *mut T,
    expected: T,
    new: T,
) -> Result<Result<T, T>, Fault> {
    // SAFETY: as promised by the caller.
    let found = value_of(unsafe { T::exchange(at, expected, new) }, at.addr()).map(T::from_bits)?;
    Ok(if found == expected {
        Ok(found)
    } else {
        Err(found)
    })
}
