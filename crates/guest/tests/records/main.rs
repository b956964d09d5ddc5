//! Records in a model guest's memory: what has to hold whenever it polls, acknowledges late, never,
//! or is in the middle of it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guest;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use guest::{Failed, Guest, Memory, place};
use pagemend_core::address::{Gpa, GpaRange};
use pagemend_guest::ghes::{
    BLOCK_FRAMES, Condition, Config, LOOK, Patience, Records, Source, Tended,
};
use proptest::prelude::*;

const PATIENCE: Duration = Duration::from_secs(3);

struct Machine {
    memory: Memory,
    records: Records<Memory>,
    guest: Guest,
    now: Instant,
}

impl Machine {
    fn new() -> Self {
        let memory = Memory::new();
        let config = Config {
            patience: Patience {
                time: PATIENCE,
                waiting: 64,
            },
            limit: 512,
        };
        let records = Records::new(Source::new(memory.clone(), place()), config);
        assert_eq!(records.reset(), Ok(vec![]));
        Self {
            guest: Guest::new(&memory),
            memory,
            records,
            now: Instant::now(),
        }
    }

    fn lost(&self, frame: u64, frames: u64) -> u64 {
        let range = GpaRange::new(Gpa::new(frame << 12), frames << 12).unwrap();
        self.records.lost([range], self.now).added
    }

    fn tend(&self) -> Tended {
        self.records.tend(self.now).unwrap()
    }

    fn look_later(&mut self) -> Tended {
        self.now += LOOK;
        self.tend()
    }

    /// Until the guest has read everything.
    fn drain(&mut self) {
        for _ in 0..=self.records.waiting().len() {
            self.look_later();
            self.guest.poll();
        }
        self.look_later();
        assert_eq!(self.records.waiting(), []);
    }
}

fn frames(frames: impl IntoIterator<Item = u64>) -> Vec<Gpa> {
    frames
        .into_iter()
        .map(|frame| Gpa::new(frame << 12))
        .collect()
}

#[test]
fn nothing_is_to_be_read_before_something_is_lost() {
    let mut machine = Machine::new();
    machine.guest.poll();
    assert_eq!(machine.guest.heard, []);
    assert!(machine.guest.acknowledges_everything());
    assert!(!machine.records.is_pending());
    assert_eq!(machine.tend(), Tended::default());
}

#[test]
fn a_frame_is_posted_read_and_acknowledged() {
    let mut machine = Machine::new();
    machine.lost(7, 1);
    let tended = machine.tend();
    assert_eq!(tended.posted, frames([7]));
    assert_eq!(tended.look_after, Some(LOOK));
    assert!(!machine.guest.acknowledges_everything());
    machine.guest.poll();
    assert_eq!(machine.guest.heard, frames([7]));
    let tended = machine.look_later();
    assert_eq!(tended.read, frames([7]));
    assert_eq!(tended.look_after, None);
    assert_eq!(machine.records.condition(), Condition::Acknowledged);
    assert!(!machine.records.is_pending());
}

#[test]
fn what_is_lost_while_a_record_is_unread_waits_behind_it() {
    let mut machine = Machine::new();
    machine.lost(1, 1);
    machine.tend();
    machine.lost(2, 1);
    assert_eq!(machine.look_later().posted, []);
    assert_eq!(machine.records.waiting(), frames([1, 2]));
    machine.guest.poll();
    assert_eq!(machine.look_later().posted, frames([2]));
    machine.guest.poll();
    assert_eq!(machine.guest.heard, frames([1, 2]));
}

#[test]
fn many_frames_go_in_as_few_records_as_have_room_for_them() {
    let mut machine = Machine::new();
    machine.lost(0x100, 64);
    let mut polls = 0;
    while machine.records.is_pending() {
        machine.look_later();
        machine.guest.poll();
        polls += 1;
    }
    assert_eq!(machine.guest.heard, frames(0x100..0x140));
    assert_eq!(polls, 64_usize.div_ceil(BLOCK_FRAMES) + 1);
}

#[test]
fn a_guest_in_the_middle_of_a_record_gets_no_other_before_it_is_done() {
    let mut machine = Machine::new();
    machine.lost(1, 1);
    machine.tend();
    machine.lost(2, 1);
    // It has copied, then cleared, the record.
    for _ in 0..2 {
        machine.guest.step();
        assert_eq!(machine.look_later().posted, []);
    }
    machine.guest.step();
    assert_eq!(machine.look_later().posted, frames([2]));
}

#[test]
fn a_guest_that_never_polls_is_reported_once_and_keeps_its_records() {
    let mut machine = Machine::new();
    machine.lost(1, 20);
    let overdue: Vec<_> = (0..100)
        .filter_map(|_| machine.look_later().overdue)
        .collect();
    let [overdue] = overdue[..] else {
        panic!("{overdue:?}");
    };
    assert_eq!((overdue.unread_for, overdue.frames), (PATIENCE, 20));
    assert_eq!(machine.records.condition(), Condition::Ignored);
    assert_eq!(machine.records.counts().overdue, 1);
    assert_eq!(machine.records.waiting().len(), 20);
    machine.drain();
    assert_eq!(machine.guest.heard, frames(1..21));
    assert_eq!(machine.records.condition(), Condition::Acknowledged);
}

#[test]
fn a_line_that_grows_too_long_is_reported_before_time() {
    let mut machine = Machine::new();
    machine.lost(1, 1);
    machine.tend();
    machine.lost(2, 63);
    assert_eq!(machine.look_later().overdue, None);
    machine.lost(200, 1);
    let overdue = machine.look_later().overdue.unwrap();
    assert_eq!(overdue.frames, 65);
}

#[test]
fn time_in_which_nobody_looks_is_not_the_guests() {
    let mut machine = Machine::new();
    machine.lost(1, 1);
    machine.tend();
    machine.now += 100 * PATIENCE;
    assert_eq!(machine.tend().overdue, None);
}

#[test]
fn a_frame_that_is_about_to_be_told_otherwise_waits_for_that() {
    let mut machine = Machine::new();
    let range = GpaRange::new(Gpa::new(0x5000), 0x1000).unwrap();
    machine.records.lost([range], machine.now + LOOK);
    assert_eq!(machine.tend().posted, []);
    machine.records.told(Gpa::new(0x5123));
    assert_eq!(machine.look_later().posted, []);
    assert!(!machine.records.is_pending());
}

#[test]
fn what_is_taken_back_is_not_there_to_be_read_and_nothing_follows_it() {
    let mut machine = Machine::new();
    machine.lost(1, 10);
    machine.tend();
    assert_eq!(machine.records.take_waiting(), frames(1..11));
    assert_eq!(machine.records.condition(), Condition::GivenUp);
    machine.lost(20, 1);
    machine.look_later();
    machine.guest.poll();
    assert_eq!(machine.guest.heard, []);
    assert_eq!(machine.records.take_waiting(), frames([20]));
}

#[test]
fn a_record_that_the_guest_is_done_with_is_not_taken_back() {
    let mut machine = Machine::new();
    machine.lost(1, 1);
    machine.tend();
    machine.lost(2, 1);
    machine.guest.step();
    machine.guest.step();
    assert_eq!(machine.records.take_waiting(), frames([2]));
    assert_eq!(machine.records.counts().read, 1);
}

#[test]
fn a_reset_drops_what_was_not_read_and_the_next_guest_starts_with_a_clean_source() {
    let mut machine = Machine::new();
    machine.lost(1, 10);
    machine.tend();
    machine.guest.step();
    machine.memory.renew();
    machine.guest.restart();
    assert_eq!(machine.records.reset(), Ok(frames(1..11)));
    machine.guest.poll();
    assert_eq!(machine.guest.heard.len(), BLOCK_FRAMES, "before the reset");
    machine.guest.heard.clear();
    machine.lost(3, 1);
    machine.drain();
    assert_eq!(machine.guest.heard, frames([3]));
    assert_eq!(machine.records.counts().dropped, 10);
}

#[test]
fn a_source_whose_own_memory_fails_keeps_everything_for_another_way() {
    for accesses in 0..5 {
        let machine = Machine::new();
        machine.lost(1, 10);
        machine.memory.fail_after(accesses);
        let mut tended = machine.records.tend(machine.now);
        if tended.is_ok() {
            tended = machine.records.tend(machine.now + LOOK);
        }
        assert_eq!(tended, Err(Failed), "after {accesses} accesses");
        assert_eq!(machine.records.condition(), Condition::Broken);
        assert_eq!(machine.records.take_waiting(), frames(1..11));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Lose { frame: u64, frames: u64 },
    Tend { millis: u64 },
    Guest,
    GuestPoll,
    Touch { frame: u64 },
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u64..256, 1u64..20).prop_map(|(frame, frames)| Step::Lose { frame, frames }),
        4 => (0u64..300).prop_map(|millis| Step::Tend { millis }),
        6 => Just(Step::Guest),
        2 => Just(Step::GuestPoll),
        1 => (0u64..256).prop_map(|frame| Step::Touch { frame }),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    /// Each loss is heard of once, in order, or given back: by a reset, or by the touch that told
    /// it in another way.
    #[test]
    fn whatever_the_guest_does_each_frame_is_heard_once(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut machine = Machine::new();
        let mut lost = BTreeSet::new();
        for step in steps {
            match step {
                Step::Lose { frame, frames } => {
                    // Once is lost for good: the ledger has each frame once.
                    for frame in frame..frame + frames {
                        if lost.insert(frame) {
                            machine.lost(frame, 1);
                        }
                    }
                }
                Step::Tend { millis } => {
                    machine.now += Duration::from_millis(millis);
                    machine.tend();
                }
                Step::Guest => machine.guest.step(),
                Step::GuestPoll => machine.guest.poll(),
                Step::Touch { frame } => {
                    let before = machine.records.waiting();
                    machine.records.told(Gpa::new(frame << 12));
                    for gpa in before {
                        if !machine.records.waiting().contains(&gpa) {
                            prop_assert_eq!(gpa.get() >> 12, frame);
                            lost.remove(&frame);
                        }
                    }
                }
                Step::Reset => {
                    machine.memory.renew();
                    machine.guest.restart();
                    machine.records.reset().unwrap();
                    machine.guest.heard.clear();
                    lost.clear();
                }
            }
        }
        machine.drain();
        let heard: BTreeSet<u64> = machine.guest.heard.iter().map(|gpa| gpa.get() >> 12).collect();
        prop_assert_eq!(machine.guest.heard.len(), heard.len(), "something is told twice");
        prop_assert_eq!(heard, lost);
        let counts = machine.records.counts();
        prop_assert!(counts.read <= counts.posted);
    }

    /// Taken back at any moment of the guest's, nothing is lost; what it is reading in that moment
    /// may be heard both ways, and nothing else.
    #[test]
    fn what_is_taken_back_was_not_heard_but_for_the_record_being_read(
        first in 1u64..10,
        second in 1u64..10,
        guest_steps in 0usize..9,
    ) {
        let mut machine = Machine::new();
        machine.lost(1, first);
        machine.tend();
        machine.lost(100, second);
        for _ in 0..guest_steps {
            machine.guest.step();
            machine.look_later();
        }
        let reading = machine.guest.heard.clone();
        let taken = machine.records.take_waiting();
        for _ in 0..5 {
            machine.look_later();
            machine.guest.poll();
        }
        let both: Vec<_> = taken.iter().filter(|gpa| machine.guest.heard.contains(gpa)).collect();
        prop_assert!(both.len() <= BLOCK_FRAMES);
        prop_assert!(both.iter().all(|gpa| reading.contains(gpa)));
        let mut all: BTreeSet<Gpa> = taken.iter().copied().collect();
        all.extend(&machine.guest.heard);
        prop_assert_eq!(all.len() as u64, first + second);
    }
}
