//! What was told to whom. A recipient is told losses in the order in which they happened, but for
//! the frame somebody waits on: so what it knows is a generation, and a few ahead of it.

use super::log::{Log, Record};

/// One recipient, and how far it has been told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Recipient {
    pub(super) name: String,
    /// The first generation it has not been told.
    pub(super) cursor: u64,
    /// Generations behind the cursor that it has been told, ascending. Never the cursor itself.
    pub(super) ahead: Vec<u64>,
}

impl Recipient {
    pub(super) fn new(name: &str, cursor: u64) -> Self {
        Self {
            name: name.to_owned(),
            cursor,
            ahead: Vec::new(),
        }
    }

    /// Notes that it was told `frame`, and says whether it was not before. Linear in what it has
    /// not been told, and at once for the oldest of it.
    pub(super) fn tell(&mut self, log: &Log, frame: u64) -> bool {
        let Some(generation) = log.find_since(self.cursor, frame) else {
            return false;
        };
        if generation == self.cursor {
            self.tell_before(generation + 1);
            return true;
        }
        match self.ahead.binary_search(&generation) {
            Ok(_) => false,
            Err(place) => {
                self.ahead.insert(place, generation);
                true
            }
        }
    }

    /// Notes that it was told all generations before `generation`.
    pub(super) fn tell_before(&mut self, generation: u64) {
        self.cursor = self.cursor.max(generation);
        let passed = self.ahead.partition_point(|&told| told < self.cursor);
        let reached = self.ahead[passed..]
            .iter()
            .zip(self.cursor..)
            .take_while(|&(&told, next)| told == next)
            .count();
        self.cursor += reached as u64;
        self.ahead.drain(..passed + reached);
    }

    /// Starts anew with the records from `generation` on.
    pub(super) fn restart(&mut self, generation: u64) {
        self.cursor = generation;
        self.ahead.clear();
    }

    pub(super) fn knows(&self, generation: u64) -> bool {
        generation < self.cursor || self.ahead.binary_search(&generation).is_ok()
    }

    pub(super) fn untold(&self, log: &Log) -> impl Iterator<Item = (u64, Record)> {
        log.since(self.cursor)
            .filter(|&(generation, _)| self.ahead.binary_search(&generation).is_err())
    }

    /// Bytes on the heap.
    pub(super) fn memory_bytes(&self) -> usize {
        self.name.capacity() + self.ahead.capacity() * size_of::<u64>()
    }
}
