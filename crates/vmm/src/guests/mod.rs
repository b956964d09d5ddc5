//! Small guests of our own, for measuring and for tests on hosts whose KVM runs no Linux. They are
//! written for [`Payload::Flat`](crate::Payload::Flat).

pub mod echo;
pub mod memcycler;
pub mod parrot;
pub mod restart;
pub mod touch;

/// The bytes between two labels of `global_asm!`.
macro_rules! code_between {
    ($start:ident, $end:ident) => {{
        unsafe extern "C" {
            static $start: u8;
            static $end: u8;
        }
        let (start, end) = (&raw const $start, &raw const $end);
        // SAFETY: both labels are in one section, with nothing but initialized bytes from one to
        // the other, which nobody ever writes.
        unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }.to_vec()
    }};
}
use code_between;
