//! One thread's way through its part of the memory.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use pagemend::FRAME_SIZE;

use super::field::{Part, SLOT};
use super::{Access, Pattern};

const WORD: u64 = size_of::<u64>() as u64;
const SLOT_WORDS: u64 = SLOT / WORD;
const FRAME_WORDS: u64 = FRAME_SIZE / WORD;
/// Random words between two looks at whether time is over.
const AT_ONCE: u64 = 4096;

/// What the word with this number holds after so many passes.
pub(super) fn value(number: u64, pass: u64) -> u64 {
    number.wrapping_add(pass << 32)
}

/// Where a thread is, from turn to turn.
pub(super) struct Walker {
    part: Part,
    /// Words that it has, by number.
    ranges: Vec<Range<u64>>,
    /// The range that is written next, and the pass before it was.
    write: usize,
    pass: u64,
    /// The range that is read next where nothing is written.
    read: usize,
    random: u64,
}

/// What was done in a turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub(super) words: u64,
    pub(super) wrong: u64,
}

impl Walker {
    pub(super) fn new(part: Part) -> Self {
        let words = |range: Range<u64>| range.start / WORD..range.end / WORD;
        Self {
            ranges: part.ranges().into_iter().map(words).collect(),
            write: 0,
            pass: 0,
            read: 0,
            // Any number but 0, another for each thread.
            random: part.slots.start.wrapping_mul(2) | 1,
            part,
        }
    }

    /// Works until `stop` is set.
    pub(super) fn walk(
        &mut self,
        memory: &[AtomicU64],
        pattern: Pattern,
        access: Access,
        stop: &AtomicBool,
    ) -> Work {
        let mut work = Work::default();
        while !stop.load(Relaxed) {
            let done = match pattern {
                Pattern::Stride(bytes) => self.range(memory, (bytes / WORD) as usize, access),
                Pattern::Random => self.scattered(memory, access),
            };
            work.words += done.words;
            work.wrong += done.wrong;
        }
        work
    }

    /// The next range, one word every `step`.
    fn range(&mut self, memory: &[AtomicU64], step: usize, access: Access) -> Work {
        let last = self.ranges.len() - 1;
        let (number, pass) = match access {
            Access::Reads => {
                let number = self.read;
                self.read = if number == last { 0 } else { number + 1 };
                // What was written in this pass already is one pass ahead.
                (number, self.pass + u64::from(number < self.write))
            }
            Access::Both | Access::Writes => {
                let (number, pass) = (self.write, self.pass);
                self.write = if number == last { 0 } else { number + 1 };
                self.pass += u64::from(number == last);
                (number, pass)
            }
        };
        let range = self.ranges[number].clone();
        let words = &memory[range.start as usize..range.end as usize];
        let (held, next) = (value(range.start, pass), value(range.start, pass + 1));
        match access {
            Access::Both => each(words, step, |word, at| {
                let wrong = u64::from(word.load(Relaxed) != held.wrapping_add(at));
                word.store(next.wrapping_add(at), Relaxed);
                wrong
            }),
            Access::Reads => each(words, step, |word, at| {
                u64::from(word.load(Relaxed) != held.wrapping_add(at))
            }),
            Access::Writes => each(words, step, |word, at| {
                word.store(next.wrapping_add(at), Relaxed);
                0
            }),
        }
    }

    /// Some random words. What is written is what was there, which only this thread would change.
    fn scattered(&mut self, memory: &[AtomicU64], access: Access) -> Work {
        let slots = self.part.lost.len() as u64;
        let mut wrong = 0;
        for _ in 0..AT_ONCE {
            // Marsaglia's xorshift64 with a multiplication (Vigna, 2014).
            self.random ^= self.random >> 12;
            self.random ^= self.random << 25;
            self.random ^= self.random >> 27;
            let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
            let slot = ((random >> 32) * slots) >> 32;
            let mut word = (random >> 8) % SLOT_WORDS;
            // Beside the lost frame; no case but has this question.
            if word / FRAME_WORDS == self.part.lost[slot as usize] {
                word ^= FRAME_WORDS;
            }
            let number = (self.part.slots.start + slot) * SLOT_WORDS + word;
            let word = &memory[number as usize];
            if access != Access::Writes {
                wrong += u64::from(word.load(Relaxed) != value(number, 0));
            }
            if access != Access::Reads {
                word.store(value(number, 0), Relaxed);
            }
        }
        Work {
            words: AT_ONCE,
            wrong,
        }
    }
}

/// Visits one word every `step`, with its distance from the first; adds up what the visits say.
fn each(words: &[AtomicU64], step: usize, visit: impl Fn(&AtomicU64, u64) -> u64) -> Work {
    let mut wrong = 0;
    if step == 1 {
        for (at, word) in words.iter().enumerate() {
            wrong += visit(word, at as u64);
        }
    } else {
        for (visited, word) in words.iter().step_by(step).enumerate() {
            wrong += visit(word, (visited * step) as u64);
        }
    }
    Work {
        words: words.len().div_ceil(step) as u64,
        wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::super::field::parts;
    use super::*;

    fn memory(slots: u64) -> Vec<AtomicU64> {
        let words = 0..slots * SLOT_WORDS;
        words
            .map(|number| AtomicU64::new(value(number, 0)))
            .collect()
    }

    /// Walks through so many ranges of both threads.
    fn walk(memory: &[AtomicU64], pattern: Pattern, rounds: usize) -> u64 {
        let mut walkers: Vec<_> = parts(4, 2, &[SLOT + 3 * FRAME_SIZE])
            .into_iter()
            .map(Walker::new)
            .collect();
        let mut wrong = 0;
        for round in 0..rounds {
            for walker in &mut walkers {
                let access = Access::ALL[round % 3];
                let work = match pattern {
                    Pattern::Stride(bytes) => walker.range(memory, bytes as usize / 8, access),
                    Pattern::Random => walker.scattered(memory, access),
                };
                assert!(work.words > 0);
                wrong += work.wrong;
            }
        }
        wrong
    }

    #[test]
    fn words_hold_what_was_written_whatever_is_done_in_which_order() {
        for pattern in [Pattern::Stride(8), Pattern::Stride(4160), Pattern::Random] {
            assert_eq!(walk(&memory(4), pattern, 30), 0, "{pattern:?}");
        }
    }

    #[test]
    fn a_word_that_changes_is_noticed() {
        let memory = memory(4);
        memory[17].store(0, Relaxed);
        assert_eq!(walk(&memory, Pattern::Stride(8), 1), 1);
    }

    #[test]
    fn the_lost_frame_is_not_touched() {
        let lost = ((SLOT + 3 * FRAME_SIZE) / 8) as usize;
        let lost = lost..lost + FRAME_WORDS as usize;
        for pattern in [Pattern::Stride(8), Pattern::Random] {
            let memory = memory(4);
            for word in &memory[lost.clone()] {
                word.store(u64::MAX, Relaxed);
            }
            assert_eq!(walk(&memory, pattern, 30), 0, "{pattern:?}");
            let mut after = memory[lost.clone()].iter();
            assert!(after.all(|word| word.load(Relaxed) == u64::MAX));
        }
    }
}
