//! Frames that wait to be told: first come, first told, each once.

use std::collections::{HashSet, VecDeque};

use pagemend_core::address::{Gpa, GpaRange};
use serde::Serialize;

/// What became of a loss that nobody has touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Queued {
    /// Frames that now wait.
    pub added: u64,
    /// Frames that waited already.
    pub known: u64,
    /// Frames beyond the limit, which the guest will not be told of before it touches them.
    pub withheld: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    line: VecDeque<Gpa>,
    members: HashSet<Gpa>,
}

impl Queue {
    /// Adds the frames of one loss, up to `limit` of them.
    pub(crate) fn add(&mut self, lost: impl IntoIterator<Item = GpaRange>, limit: usize) -> Queued {
        let mut queued = Queued::default();
        let mut left = limit;
        for range in lost {
            let mut frames = range.frames();
            for gpa in frames.by_ref().take(left) {
                left -= 1;
                if self.members.insert(gpa) {
                    self.line.push_back(gpa);
                    queued.added += 1;
                } else {
                    queued.known += 1;
                }
            }
            queued.withheld += frames.count() as u64;
        }
        queued
    }

    /// Puts a frame back in front: it was taken, and not told after all.
    pub(crate) fn put_back(&mut self, gpa: Gpa) {
        if self.members.insert(gpa) {
            self.line.push_front(gpa);
        }
    }

    pub(crate) fn first(&self) -> Option<Gpa> {
        self.line.front().copied()
    }

    /// Takes up to `count` from the front.
    pub(crate) fn take_first(&mut self, count: usize) -> Vec<Gpa> {
        let count = count.min(self.line.len());
        let taken: Vec<Gpa> = self.line.drain(..count).collect();
        for gpa in &taken {
            self.members.remove(gpa);
        }
        taken
    }

    /// The frame has been told, by whatever way.
    pub(crate) fn remove(&mut self, gpa: Gpa) {
        if self.members.remove(&gpa) {
            self.line.retain(|waiting| *waiting != gpa);
        }
    }

    /// Everything that waits.
    pub(crate) fn take(&mut self) -> Vec<Gpa> {
        self.members.clear();
        std::mem::take(&mut self.line).into()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Gpa> {
        self.line.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.line.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(frame: u64, frames: u64) -> GpaRange {
        GpaRange::new(Gpa::new(frame << 12), frames << 12).unwrap()
    }

    #[test]
    fn a_whole_page_is_told_up_to_the_limit_and_the_rest_is_counted() {
        let mut queue = Queue::default();
        let queued = queue.add([range(512, 512)], 64);
        assert_eq!((queued.added, queued.withheld), (64, 448));
        assert_eq!(queue.first(), Some(Gpa::new(512 << 12)));
        let more = queue.add([range(560, 8), range(5, 1)], 9);
        assert_eq!((more.added, more.known, more.withheld), (1, 8, 0));
        assert_eq!(queue.len(), 65);
    }

    #[test]
    fn a_frame_waits_once_and_keeps_its_place() {
        let mut queue = Queue::default();
        queue.add([range(1, 3)], 10);
        queue.remove(Gpa::new(0x1000));
        queue.put_back(Gpa::new(0x1000));
        queue.put_back(Gpa::new(0x3000));
        let waiting: Vec<u64> = queue.iter().map(Gpa::get).collect();
        assert_eq!(waiting, [0x1000, 0x2000, 0x3000]);
        assert_eq!(queue.take().len(), 3);
        assert_eq!(queue.len(), 0);
        assert_eq!(queue.add([range(1, 1)], 10).added, 1);
    }
}
