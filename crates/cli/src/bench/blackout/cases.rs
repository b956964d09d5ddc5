//! What guests meet, and what one case has come to.

use super::Method;
use super::parts::{Stream, Wait};
use crate::bench::pieces::Piece;

/// What guests meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lot {
    /// Nothing.
    Quiet,
    /// No error, and a thread beside them that copies as much memory as their mends would.
    Copying,
    /// An error, and it is dealt with so.
    Failure(Method),
}

impl Lot {
    pub(super) fn method(self) -> Option<Method> {
        match self {
            Self::Failure(method) => Some(method),
            Self::Quiet | Self::Copying => None,
        }
    }
}

/// All in microseconds.
#[derive(Default)]
pub(super) struct Samples {
    /// From before the touch to after it.
    pub(super) touched: Vec<f64>,
    /// The longest gap that the other vCPU saw while it was watched.
    pub(super) bystander: Vec<f64>,
    /// From the touch of a lost frame to the guest's machine-check handler.
    pub(super) told: Vec<f64>,
    /// Of the wait, the copying to pages of 4 KiB.
    pub(super) splitting: Vec<f64>,
    /// From the fault until all of the page was there again.
    pub(super) completed: Vec<f64>,
    /// What the waits consisted of, and the coming back of pages.
    pub(super) waits: Vec<Wait>,
    pub(super) streams: Vec<Stream>,
    /// What the pages that failed consist of afterwards, in one guest.
    pub(super) pieces: Vec<Piece>,
}

impl Samples {
    pub(super) fn add(&mut self, other: Self) {
        self.touched.extend(other.touched);
        self.bystander.extend(other.bystander);
        self.told.extend(other.told);
        self.splitting.extend(other.splitting);
        self.completed.extend(other.completed);
        self.waits.extend(other.waits);
        self.streams.extend(other.streams);
        self.pieces = other.pieces;
    }
}
