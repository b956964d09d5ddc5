//! Telling a guest the way firmware does: error records in its memory, which it polls.
//!
//! A machine check needs a guest that has its handler up, and on AMD one that nobody touched is
//! found only when the guest next polls its banks, which Linux does every five minutes. A record
//! needs nothing but a driver that knows the table (HEST) in which the source is named; Linux looks
//! at a polled source every second or so, takes the frames out of use, and acknowledges. None of it
//! depends on the architecture.
//!
//! [`Source`] is two registers and a block of memory. [`Records`] is the line of frames before it:
//! up to [`BLOCK_FRAMES`] in a record, each with a section of its own, and the next record when the
//! last was acknowledged. A guest that is slow, or never looks, is reported when [`Patience`] is
//! over. Its records wait all the same, until it looks, the VMM
//! [takes them back](Records::take_waiting) to tell them otherwise, or it is reset.
//!
//! What a VMM does:
//!
//! 1. Reserves a frame of guest memory for the [`Place`], and names it in HEST
//!    ([`GenericSource2`](pagemend_cper::acpi::hest::GenericSource2)).
//! 2. Calls [`Records::reset`] before the guest starts, each time.
//! 3. Calls [`Records::lost`] from a listener of the mender, and then [`Records::tend`] on some
//!    other thread, again as often as its answer asks for it.

mod record;
mod records;
mod source;
mod window;

pub use record::{BLOCK_FRAMES, BLOCK_LEN, boot_errors, status_block};
pub use records::{Condition, Config, Counts, LOOK, Overdue, Patience, Records, Tended};
pub use source::{Place, Source};
pub use window::Window;
