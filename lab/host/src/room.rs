//! How many machines run side by side: as many as processors and free memory allow, and why not more.

use crate::plan::Batch;
use std::fs;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

/// Processors of a machine.
pub(crate) const PROCESSORS: usize = 2;

/// Machines side by side, and that in words.
#[derive(Debug, PartialEq)]
pub(crate) struct Room {
    pub(crate) machines: usize,
    pub(crate) words: String,
}

/// Processors of this host.
pub(crate) fn processors() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Room on this host for `wanted` of these boots at a time; or for one for each two processors, and where they are kept on one each, for one for each.
pub(crate) fn here(wanted: Option<usize>, batches: &[Batch], on_one_each: bool) -> Room {
    let each = if on_one_each { 1 } else { PROCESSORS };
    room(wanted.unwrap_or(processors() / each), batches, free())
}

/// Room for `wanted` of these boots, or of the largest ones as many as fit into so many MiB.
fn room(wanted: usize, batches: &[Batch], free: Option<u32>) -> Room {
    let wanted = wanted.clamp(1, batches.len().max(1));
    let mut sizes: Vec<u32> = batches.iter().map(Batch::memory).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let largest = |machines: usize| sizes.iter().take(machines).sum::<u32>();
    let fits = |machines: &usize| free.is_none_or(|free| largest(*machines) <= free);
    let machines = (1..=wanted).rev().find(fits);
    let (have, take) = (
        free.map_or("an unknown amount".into(), |free| format!("{free} MiB")),
        largest(machines.unwrap_or(1)),
    );
    let boots = match batches.len() {
        1 => "1 boot".to_owned(),
        boots => format!("{boots} boots"),
    };
    let words = match machines {
        Some(machines) if machines == wanted => {
            format!("{boots}, {machines} at a time: at most {take} MiB, and {have} are free")
        }
        Some(machines) => format!(
            "{boots}, {machines} at a time and not {wanted}, which would take up to {} MiB: {have} are free",
            largest(wanted)
        ),
        None => format!(
            "{boots}, 1 at a time, of which the largest takes up to {take} MiB: {have} are free, and less may be enough, since a machine takes what it touches"
        ),
    };
    Room {
        machines: machines.unwrap_or(1),
        words,
    }
}

/// MiB that this host can give, if it says so: `MemAvailable`.
fn free() -> Option<u32> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = kib.trim().strip_suffix(" kB")?.parse().ok()?;
    u32::try_from(kib >> 10).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagemend_lab_protocol::{Cpu, Needs, ScenarioInfo, Set};

    fn boots(huge_1g: &[u32]) -> Vec<Batch> {
        let boot = |huge_1g: &u32| Batch {
            cpu: Cpu::Amd,
            guests: false,
            scenarios: vec![ScenarioInfo {
                name: "a/b".into(),
                proves: String::new(),
                needs: Needs::NOTHING.huge_1g(*huge_1g),
                set: Set::Default,
            }],
            before: Vec::new(),
        };
        huge_1g.iter().map(boot).collect()
    }

    #[test]
    fn machines_side_by_side_fit_into_free_memory_whichever_they_are() {
        let boots = boots(&[0, 4, 1]);
        let both = boots[1].memory() + boots[2].memory();
        assert_eq!(room(2, &boots, Some(both)).machines, 2);
        let less = room(2, &boots, Some(both - 1));
        assert_eq!(less.machines, 1);
        assert!(
            less.words.contains("1 at a time and not 2"),
            "{}",
            less.words
        );
    }

    #[test]
    fn one_machine_is_tried_whatever_is_free_and_the_words_say_so() {
        let little = room(4, &boots(&[0, 0]), Some(1));
        assert_eq!(little.machines, 1);
        assert!(little.words.contains("1 MiB are free"), "{}", little.words);
    }

    #[test]
    fn there_are_no_more_machines_than_boots() {
        assert_eq!(room(8, &boots(&[0, 0]), None).machines, 2);
        assert_eq!(room(0, &[], None).machines, 1);
    }
}
