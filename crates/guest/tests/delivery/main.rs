//! Delivery on model vCPUs: what has to hold in any order of errors, guest steps and resets.
#![allow(clippy::unwrap_used, reason = "the harness fails as a test does")]

mod model;

use std::sync::Arc;

use model::Model;
use pagemend_core::address::{Gpa, GpaRange, PageSize};
use pagemend_guest::deliver::{
    Answer, BANK_REQUIRED, Config, DEFAULT_BANKS, MachineChecks, Obstacle, RETRY, Teller,
};
use pagemend_guest::x86::bits::*;
use pagemend_guest::x86::{AoSignal, Vendor};
use proptest::prelude::*;

/// A guest of model vCPUs, with handlers that read all banks, clear them and return.
struct Guest {
    checks: Arc<MachineChecks>,
    vcpus: Vec<(Model, Teller)>,
    /// Whether the VMM sees which registers the guest reads and writes.
    watched: bool,
}

impl Guest {
    fn new(vendor: Vendor, signal: AoSignal, vcpus: usize) -> Self {
        let checks = MachineChecks::new(Config {
            vendor,
            signal,
            recovers: true,
            banks: DEFAULT_BANKS,
            vcpus,
            limit: 512,
        });
        Self::with(checks)
    }

    fn with(checks: Arc<MachineChecks>) -> Self {
        let vcpus = 0..checks.config().vcpus;
        let vcpus = vcpus.map(|vcpu| (Model::new(DEFAULT_BANKS), checks.teller(vcpu)));
        Self {
            vcpus: vcpus.collect(),
            checks,
            watched: true,
        }
    }

    fn on(mut self) -> Self {
        for vcpu in 0..self.vcpus.len() {
            self.set_cr4(vcpu, true);
        }
        self
    }

    fn set_cr4(&mut self, vcpu: usize, on: bool) {
        self.vcpus[vcpu].0.state.cr4 = if on { CR4_MCE } else { 0 };
    }

    fn lost(&self, frame: u64) -> u64 {
        let range = GpaRange::page(Gpa::new(frame << 12), PageSize::SIZE_4K);
        self.checks.lost([range]).added
    }

    fn before_run(&mut self, vcpu: usize) -> pagemend_guest::deliver::Outcome {
        let (model, teller) = &mut self.vcpus[vcpu];
        let Ok(outcome) = teller.before_run(model);
        outcome
    }

    fn touched(&mut self, vcpu: usize, frame: u64) -> Answer {
        let (model, teller) = &mut self.vcpus[vcpu];
        let Ok(answer) = teller.touched(model, Gpa::new(frame << 12));
        answer
    }

    /// The guest's handler, or its poll: reads all banks and clears them.
    fn handle(&mut self, vcpu: usize) {
        let (model, teller) = &mut self.vcpus[vcpu];
        for bank in 0..DEFAULT_BANKS {
            if self.watched {
                teller.read(msr_mci_status(bank));
            }
            if model.poll(bank).is_some() && self.watched {
                teller.written(msr_mci_status(bank), 0);
            }
        }
        model.state.mcg_status = 0;
        model.queued = false;
    }

    /// The guest's boot: clears all banks without looking.
    fn clear(&mut self, vcpu: usize) {
        let (model, teller) = &mut self.vcpus[vcpu];
        for bank in 0..DEFAULT_BANKS {
            model.banks[usize::from(bank)].0.status = 0;
            teller.written(msr_mci_status(bank), 0);
        }
    }

    /// Lets the guest run until nothing waits.
    fn drain(&mut self) {
        for vcpu in 0..self.vcpus.len() {
            self.set_cr4(vcpu, true);
        }
        // A frame can take a round to be told and one in which all others take part.
        for _ in 0..4 + 2 * self.checks.waiting().len() {
            for vcpu in 0..self.vcpus.len() {
                self.before_run(vcpu);
                self.handle(vcpu);
            }
        }
        assert_eq!(self.checks.waiting(), [], "something waits for ever");
    }

    fn heard(&self, required: bool) -> Vec<u64> {
        let all = self
            .vcpus
            .iter()
            .flat_map(|(model, _)| model.heard(required));
        let mut frames: Vec<u64> = all.map(|gpa| gpa.get() >> 12).collect();
        frames.sort_unstable();
        frames
    }
}

const WAYS: [(Vendor, AoSignal); 3] = [
    (Vendor::Intel, AoSignal::Exception),
    (Vendor::Intel, AoSignal::Interrupt),
    (Vendor::Amd, AoSignal::Record),
];

#[test]
fn frames_are_told_in_order_as_the_guest_makes_room() {
    let mut guest = Guest::new(Vendor::Intel, AoSignal::Exception, 1).on();
    (1..=3).for_each(|frame| assert_eq!(guest.lost(frame), 1));
    for frame in 1..=3 {
        assert_eq!(guest.before_run(0).told, [Gpa::new(frame << 12)]);
        let outcome = guest.before_run(0);
        if frame < 3 {
            assert_eq!(outcome.obstacle, Some(Obstacle::InProgress));
            assert_eq!(outcome.retry_after, None);
        }
        guest.handle(0);
    }
    assert_eq!(guest.heard(false), [1, 2, 3]);
}

#[test]
fn records_that_disturb_nobody_fill_all_banks_at_once() {
    let mut guest = Guest::new(Vendor::Amd, AoSignal::Record, 1).on();
    (1..=8).for_each(|frame| assert_eq!(guest.lost(frame), 1));
    let outcome = guest.before_run(0);
    assert_eq!(outcome.told.len(), 6);
    assert_eq!(outcome.obstacle, Some(Obstacle::BanksFull));
    guest.handle(0);
    assert_eq!(guest.before_run(0).told.len(), 2);
}

#[test]
fn a_guest_with_machine_checks_off_is_told_when_it_turns_them_on() {
    for (vendor, signal) in WAYS {
        let mut guest = Guest::new(vendor, signal, 1);
        guest.lost(7);
        let outcome = guest.before_run(0);
        assert_eq!(outcome.obstacle, Some(Obstacle::MachineChecksOff));
        assert_eq!(outcome.retry_after, Some(RETRY));
        assert_eq!(guest.checks.waiting(), [Gpa::new(0x7000)]);
        guest.set_cr4(0, true);
        assert_eq!(guest.before_run(0).told, [Gpa::new(0x7000)]);
    }
}

#[test]
fn a_touch_that_cannot_be_told_is_refused_with_the_reason() {
    let mut guest = Guest::new(Vendor::Intel, AoSignal::Exception, 1);
    assert_eq!(
        guest.touched(0, 1),
        Answer::Refused(Obstacle::MachineChecksOff)
    );
    guest.set_cr4(0, true);
    guest.vcpus[0].0.banks[usize::from(BANK_REQUIRED)].0.ctl = 0;
    assert_eq!(guest.touched(0, 1), Answer::Refused(Obstacle::ReportingOff));
    guest.vcpus[0].0.banks[usize::from(BANK_REQUIRED)].0.ctl = u64::MAX;
    assert!(matches!(guest.touched(0, 1), Answer::Told { .. }));
    assert_eq!(guest.touched(0, 2), Answer::Refused(Obstacle::InProgress));
    assert_eq!(guest.checks.counts().refused, 3);
    assert!(!guest.vcpus[0].0.shut_down && !guest.vcpus[0].0.dropped);
}

#[test]
fn a_guest_that_cannot_recover_is_never_given_a_machine_check() {
    let checks = MachineChecks::new(Config {
        vendor: Vendor::Intel,
        signal: AoSignal::Exception,
        recovers: Vendor::Intel.recovers(MCG_CTL_P),
        banks: DEFAULT_BANKS,
        vcpus: 2,
        limit: 512,
    });
    let mut guest = Guest::with(checks).on();
    guest.lost(7);
    let outcome = guest.before_run(0);
    assert_eq!(outcome.obstacle, Some(Obstacle::NotRecoverable));
    assert_eq!(outcome.retry_after, None, "it never ends");
    assert_eq!(
        guest.touched(1, 7),
        Answer::Refused(Obstacle::NotRecoverable)
    );
    assert!(guest.heard(true).is_empty());
    assert!(guest.heard(false).is_empty());
    // By another way it may still be told.
    assert_eq!(guest.checks.waiting(), [Gpa::new(0x7000)]);
}

#[test]
fn a_touch_goes_past_unread_records_of_untouched_frames() {
    let mut guest = Guest::new(Vendor::Amd, AoSignal::Record, 1).on();
    (1..=9).for_each(|frame| assert_eq!(guest.lost(frame), 1));
    guest.before_run(0);
    let told = Answer::Told {
        kick_others: false,
        overflow: false,
    };
    assert_eq!(guest.touched(0, 99), told);
    guest.drain();
    assert_eq!(guest.heard(true), [99]);
    assert_eq!(guest.heard(false), (1..=9).collect::<Vec<_>>());
}

#[test]
fn a_frame_that_is_touched_while_it_waits_is_told_once() {
    let mut guest = Guest::new(Vendor::Intel, AoSignal::Exception, 1).on();
    guest.lost(4);
    assert!(matches!(guest.touched(0, 4), Answer::Told { .. }));
    guest.drain();
    assert_eq!((guest.heard(true), guest.heard(false)), (vec![4], vec![]));
}

#[test]
fn a_record_that_the_guest_clears_unread_is_told_again() {
    let mut guest = Guest::new(Vendor::Amd, AoSignal::Record, 1).on();
    guest.lost(4);
    guest.before_run(0);
    guest.clear(0);
    assert_eq!(guest.checks.waiting(), [Gpa::new(0x4000)]);
    guest.drain();
    assert_eq!(guest.heard(false), [4]);
    assert_eq!(guest.checks.counts().repeated, 1);
}

#[test]
fn a_reset_gives_back_what_was_not_told() {
    let mut guest = Guest::new(Vendor::Amd, AoSignal::Record, 1).on();
    (0..8).for_each(|frame| assert_eq!(guest.lost(frame), 1));
    guest.before_run(0);
    let mut dropped = guest.checks.reset();
    dropped.sort_unstable();
    assert_eq!(
        dropped,
        (0..8)
            .map(|frame| Gpa::new(frame << 12))
            .collect::<Vec<_>>()
    );
    assert_eq!(guest.checks.waiting(), []);
    assert_eq!(guest.checks.counts().dropped, 8);
}

#[test]
fn all_processors_take_part_where_machine_checks_are_not_local() {
    let mut guest = Guest::new(Vendor::Intel, AoSignal::Exception, 3).on();
    // The third has not been started.
    guest.set_cr4(2, false);
    guest.lost(1);
    guest.lost(2);
    let outcome = guest.before_run(0);
    assert!(outcome.kick_others);
    assert!(guest.before_run(1).summoned);
    assert!(!guest.before_run(2).summoned);
    // The first is done before the second: no other may begin yet.
    guest.handle(0);
    assert_eq!(
        guest.before_run(0).obstacle,
        Some(Obstacle::OthersInProgress)
    );
    guest.handle(1);
    assert_eq!(guest.before_run(1).told, [Gpa::new(0x2000)]);
    assert!(guest.before_run(0).summoned);
}

#[test]
fn two_touches_at_once_meet_in_one_machine_check() {
    let mut guest = Guest::new(Vendor::Intel, AoSignal::Exception, 2).on();
    let told = |kick_others| Answer::Told {
        kick_others,
        overflow: false,
    };
    assert_eq!(guest.touched(0, 1), told(true));
    assert_eq!(guest.touched(1, 2), told(false));
    guest.handle(0);
    guest.handle(1);
    assert!(!guest.before_run(0).summoned);
    assert!(!guest.before_run(1).summoned);
    assert_eq!(guest.heard(true), [1, 2]);
}

#[test]
fn nobody_else_is_disturbed_by_local_machine_checks() {
    let mut guest = Guest::new(Vendor::Intel, AoSignal::Exception, 2).on();
    guest.vcpus[0].0.state.mcg_ext_ctl = MCG_EXT_CTL_LMCE_EN;
    let Answer::Told { kick_others, .. } = guest.touched(0, 1) else {
        panic!("it can be told");
    };
    assert!(!kick_others);
    assert_ne!(guest.vcpus[0].0.state.mcg_status & MCG_STATUS_LMCES, 0);
    assert!(!guest.before_run(1).summoned);
}

/// What happens to a guest.
#[derive(Clone, Debug)]
enum Step {
    Lost(u64),
    Touch(usize, u64),
    Run(usize),
    Handle(usize),
    /// The guest only ends its machine check, and leaves the banks for later.
    Return(usize),
    Clear(usize),
    Switch(usize, bool),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    let vcpu = 0..3usize;
    prop_oneof![
        4 => (0..24u64).prop_map(Step::Lost),
        2 => (vcpu.clone(), 0..24u64).prop_map(|(vcpu, frame)| Step::Touch(vcpu, frame)),
        8 => vcpu.clone().prop_map(Step::Run),
        4 => vcpu.clone().prop_map(Step::Handle),
        1 => vcpu.clone().prop_map(Step::Return),
        1 => vcpu.clone().prop_map(Step::Clear),
        2 => (vcpu, prop::bool::weighted(0.7)).prop_map(|(vcpu, on)| Step::Switch(vcpu, on)),
        1 => Just(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn in_any_order_nothing_is_lost_or_told_twice_and_no_guest_dies(
        way in 0..WAYS.len(),
        local: bool,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (vendor, signal) = WAYS[way];
        let mut guest = Guest::new(vendor, signal, 3);
        for (model, _) in &mut guest.vcpus {
            model.state.mcg_ext_ctl = u64::from(local);
        }
        // Losses come as a ledger has them: each frame once, until a reset makes it good.
        let mut reported = std::collections::BTreeSet::new();
        let (mut owed, mut touched, mut superseded) = (Vec::new(), Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Lost(frame) if reported.insert(frame) => {
                    guest.lost(frame);
                    owed.push(frame);
                }
                Step::Lost(_) => {}
                Step::Touch(vcpu, frame) => {
                    let waiting = guest.checks.waiting().contains(&Gpa::new(frame << 12));
                    let can = guest.vcpus[vcpu].0.state.cr4 != 0
                        && guest.vcpus[vcpu].0.state.mcg_status == 0;
                    let answer = guest.touched(vcpu, frame);
                    prop_assert_eq!(matches!(answer, Answer::Told { .. }), can);
                    if let Answer::Told { overflow, .. } = answer {
                        // As on a processor, and only by the guest's own neglect.
                        if !overflow {
                            touched.push(frame);
                            superseded.extend(waiting.then_some(frame));
                        } else {
                            guest.vcpus[vcpu].0.overflowed = false;
                            return Ok(());
                        }
                    }
                }
                Step::Run(vcpu) => {
                    guest.before_run(vcpu);
                }
                Step::Handle(vcpu) => guest.handle(vcpu),
                Step::Return(vcpu) => guest.vcpus[vcpu].0.state.mcg_status = 0,
                // A boot clears before machine checks are on.
                Step::Clear(vcpu) if guest.vcpus[vcpu].0.state.mcg_status == 0
                    && guest.vcpus[vcpu].0.banks[usize::from(BANK_REQUIRED)].0.status == 0 =>
                {
                    guest.clear(vcpu)
                }
                Step::Clear(_) => {}
                Step::Switch(vcpu, on) => guest.set_cr4(vcpu, on),
                Step::Reset => {
                    for dropped in guest.checks.reset() {
                        let at = owed.iter().position(|frame| frame << 12 == dropped.get());
                        prop_assert!(at.is_some(), "{} was not owed", dropped);
                        owed.swap_remove(at.unwrap());
                    }
                    for (model, _) in &mut guest.vcpus {
                        let heard = std::mem::take(&mut model.heard);
                        prop_assert!(!model.shut_down && !model.dropped && !model.overflowed);
                        *model = Model::new(DEFAULT_BANKS);
                        model.heard = heard;
                        model.state.mcg_ext_ctl = u64::from(local);
                    }
                    reported.clear();
                    // A touch that is told and reset away before the handler runs is not owed.
                    touched.retain(|frame| guest.heard(true).contains(frame));
                }
            }
            for (vcpu, (model, _)) in guest.vcpus.iter().enumerate() {
                prop_assert!(!model.shut_down, "vCPU {} shut down", vcpu);
                prop_assert!(!model.dropped, "vCPU {}: dropped by KVM", vcpu);
                prop_assert!(!model.overflowed, "vCPU {}: an overflow", vcpu);
            }
        }
        guest.drain();
        let mut expected = owed;
        for frame in superseded {
            if let Some(at) = expected.iter().position(|owed| *owed == frame) {
                expected.swap_remove(at);
            }
        }
        expected.sort_unstable();
        prop_assert_eq!(guest.heard(false), expected);
    }
}
