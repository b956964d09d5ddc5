//! One GHESv2 source: two registers and a status block in guest memory (ACPI 6.5, 18.3.2.8).

use pagemend_core::address::Gpa;

use super::record::{BLOCK_LEN, status_block};
use super::window::Window;

/// Bit 0 of the read-ack register: the guest sets it when it has read a record, and leaves the
/// others (preserve !1, write 1).
const READ: u64 = 1;

/// Where a source is: what the guest learns from HEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(Gpa);

impl Place {
    /// Bytes that a source has: one that is in no two frames is lost whole or not at all.
    pub const LEN: u64 = 4096;

    /// A source in the frame of `gpa`.
    pub fn new(gpa: Gpa) -> Self {
        Self(gpa.frame())
    }

    /// The error status address register: 64 bits, in which the address of the status block is.
    pub fn status_address(self) -> Gpa {
        self.0
    }

    /// The read-ack register, 64 bits.
    pub fn read_ack(self) -> Gpa {
        self.at(8)
    }

    /// The status block, [`BLOCK_LEN`] bytes.
    pub fn block(self) -> Gpa {
        self.at(BLOCK_LEN.into())
    }

    fn at(self, offset: u64) -> Gpa {
        self.0.checked_add(offset).expect("it lies in a frame")
    }
}

/// A source, as its firmware sees it: the guest polls it, or is notified of it by an interrupt or an
/// abort that the VMM sends.
#[derive(Debug)]
pub struct Source<W> {
    window: W,
    place: Place,
}

impl<W: Window> Source<W> {
    /// The source at `place` in `window`. It has to be [cleared](Self::clear) before the guest
    /// starts.
    pub fn new(window: W, place: Place) -> Self {
        Self { window, place }
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Writes it as firmware leaves it to a guest that starts: nothing to read, everything read.
    ///
    /// # Errors
    ///
    /// The window's, as of all others here.
    pub fn clear(&self) -> Result<(), W::Error> {
        let block = self.place.block();
        self.window.store_half(block, 0)?;
        self.window
            .store(self.place.status_address(), block.get())?;
        self.window.store(self.place.read_ack(), READ)
    }

    /// Whether the guest has read what was posted last, and another may be.
    pub fn is_read(&self) -> Result<bool, W::Error> {
        Ok(self.window.load(self.place.read_ack())? & READ != 0)
    }

    /// Posts a record that names `frames`. Only where the last [is read](Self::is_read): until
    /// then the block is the guest's.
    ///
    /// The block's status, by which the guest knows that there is something, is written last: it
    /// may look at any moment.
    ///
    /// # Panics
    ///
    /// With more frames than a [block](super::BLOCK_FRAMES) can name.
    pub fn post(&self, frames: &[Gpa]) -> Result<(), W::Error> {
        let bytes = status_block(frames);
        let (status, rest) = bytes.split_at(4);
        let block = self.place.block();
        let after = self.place.at(u64::from(BLOCK_LEN) + 4);
        self.window.write(after, rest)?;
        let ack = self.window.load(self.place.read_ack())?;
        self.window.store(self.place.read_ack(), ack & !READ)?;
        let status = status.try_into().expect("these are four bytes");
        self.window.store_half(block, u32::from_le_bytes(status))
    }

    /// Takes a record back that the guest has not read. One that the guest is reading in this
    /// moment is read all the same; true where the guest has begun to be done with it.
    ///
    /// Nothing may be posted afterwards before the source is [cleared](Self::clear): a guest that
    /// was in the middle of the one that was taken back would put an end to the next.
    pub fn withdraw(&self) -> Result<bool, W::Error> {
        let block = self.place.block();
        // The guest clears the status before it acknowledges.
        let done = self.window.load_half(block)? == 0;
        self.window.store_half(block, 0)?;
        Ok(done)
    }
}
