//! Bytes being read: every structure is seen in place, and every failure knows its offset.

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::{Error, Reason};

/// What is left of the input, and where in the whole it starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) offset: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8], offset: usize) -> Self {
        Self { bytes, offset }
    }

    /// Sees the next bytes as a `T`.
    pub(crate) fn take<T>(&mut self, what: &'static str) -> Result<&'a T, Error>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        match T::ref_from_prefix(self.bytes) {
            Ok((value, rest)) => {
                self.advance(rest);
                Ok(value)
            }
            Err(_) => Err(self.truncated(what, size_of::<T>())),
        }
    }

    /// Sees the next bytes as `count` times `T`.
    pub(crate) fn take_many<T>(
        &mut self,
        count: usize,
        what: &'static str,
    ) -> Result<&'a [T], Error>
    where
        T: FromBytes + KnownLayout + Immutable + Unaligned,
    {
        match <[T]>::ref_from_prefix_with_elems(self.bytes, count) {
            Ok((values, rest)) => {
                self.advance(rest);
                Ok(values)
            }
            Err(_) => Err(self.truncated(what, size_of::<T>().saturating_mul(count))),
        }
    }

    /// The next `len` bytes.
    pub(crate) fn take_bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Error> {
        self.take_many::<u8>(len, what)
    }

    pub(crate) fn truncated(&self, what: &'static str, needed: usize) -> Error {
        let reason = Reason::Truncated {
            what,
            needed,
            available: self.bytes.len(),
        };
        Error {
            offset: self.offset,
            reason,
        }
    }

    fn advance(&mut self, rest: &'a [u8]) {
        self.offset += self.bytes.len() - rest.len();
        self.bytes = rest;
    }
}
