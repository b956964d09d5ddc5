//! Memory filled with words that tell where they belong, and a survey of what became of them.

use crate::faults::{self, Fault, Touch};
use crate::memory::KIB_4;
use std::ops::Range;

/// The word at an offset: never zero, and different everywhere.
pub(crate) fn word(offset: usize) -> u64 {
    // An odd multiplier makes it one-to-one; the last bit keeps zero for memory that was never written.
    ((offset as u64)
        .wrapping_add(0x5bd1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15))
        | 1
}

/// Fills memory with its pattern.
pub(crate) fn fill(base: usize, len: usize) {
    fill_range(base, 0..len);
}

/// Fills a part of memory with the pattern that starts at `base`.
pub(crate) fn fill_range(base: usize, range: Range<usize>) {
    for offset in range.step_by(8) {
        // SAFETY: callers pass a mapping of theirs that is writable and not poisoned; a fault would end the scenario.
        unsafe { ((base + offset) as *mut u64).write_volatile(word(offset)) };
    }
}

/// What is left of a filled range, 4 KiB at a time.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Survey {
    /// Pages that read as written.
    pub(crate) good: usize,
    /// Pages that read as zeros.
    pub(crate) zero: Vec<usize>,
    /// Pages that read as something else.
    pub(crate) wrong: Vec<usize>,
    /// Pages whose first word faults.
    pub(crate) faults: Vec<(usize, Fault)>,
}

/// Looks at the pages of `range`, offsets from `base`, which is where the pattern starts.
pub(crate) fn survey(base: usize, range: Range<usize>) -> Survey {
    let mut survey = Survey::default();
    for page in range.step_by(KIB_4) {
        match faults::load(base + page) {
            Err(fault) => survey.faults.push((page, fault)),
            Ok(_) => match contents(base, page) {
                Contents::Good => survey.good += 1,
                Contents::Zero => survey.zero.push(page),
                Contents::Wrong => survey.wrong.push(page),
            },
        }
    }
    survey
}

impl Survey {
    /// That exactly these pages fault and all others of `len` bytes read as written.
    pub(crate) fn lost_only(&self, len: usize, lost: &[usize]) -> bool {
        let faulting: Vec<_> = self.faults.iter().map(|(page, _)| *page).collect();
        self.zero.is_empty()
            && self.wrong.is_empty()
            && faulting == lost
            && self.good == len / KIB_4 - lost.len()
    }

    /// In a few words.
    pub(crate) fn summary(&self) -> String {
        let mut words = vec![format!("{} good", self.good)];
        for (count, what) in [(self.zero.len(), "zero"), (self.wrong.len(), "wrong")] {
            if count > 0 {
                words.push(format!("{count} {what}"));
            }
        }
        if let Some((page, fault)) = self.faults.first() {
            words.push(format!(
                "{} faulting (first at {page:#x}: {fault})",
                self.faults.len()
            ));
        }
        words.join(", ")
    }
}

enum Contents {
    Good,
    Zero,
    Wrong,
}

fn contents(base: usize, page: usize) -> Contents {
    // The page was readable just now. If it fails meanwhile, the signal kills the scenario, which is a failure with a name.
    let read = |offset: usize| {
        // SAFETY: a read of plain memory in a mapping of the scenario.
        unsafe { ((base + offset) as *const u64).read_volatile() }
    };
    let offsets = || (page..page + KIB_4).step_by(8);
    if offsets().all(|offset| read(offset) == word(offset)) {
        Contents::Good
    } else if offsets().all(|offset| read(offset) == 0) {
        Contents::Zero
    } else {
        Contents::Wrong
    }
}

/// A touch of a filled place, in words: `data` if it reads as written.
pub(crate) fn tell(touch: Touch, offset: usize) -> String {
    match touch {
        Ok(found) if found == word(offset) => "data".into(),
        Ok(0) => "zeros".into(),
        Ok(_) => "other data".into(),
        Err(fault) => fault.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_survey_tells_zeros_and_wrong_bytes_from_good_ones() {
        let mut memory = vec![0u64; 3 * KIB_4 / 8];
        let base = memory.as_mut_ptr() as usize;
        fill(base, 3 * KIB_4);
        memory[KIB_4 / 8..2 * KIB_4 / 8].fill(0);
        memory[3 * KIB_4 / 8 - 1] ^= 1 << 40;
        let survey = survey(base, 0..3 * KIB_4);
        assert_eq!(
            (survey.good, survey.zero, survey.wrong),
            (1, vec![KIB_4], vec![2 * KIB_4])
        );
    }
}
