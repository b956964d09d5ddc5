//! The ledger against a naive one: random histories, and every question asked of both.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// What a caller does to a ledger.
#[derive(Clone, Debug)]
enum Step {
    Insert(u64, Cause, u64),
    InsertRange(u64, u64, Cause, u64),
    Tell(usize, u64),
    TellBefore(usize, u64),
    Register(usize),
    Entrust(u64, u64),
    TakeBack(u64, u64),
    Clear,
}

fn frames() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => 0..600u64,
        4 => (0..3u64).prop_map(|high| (1 << 18) * high + 511),
        1 => 0..1u64 << 40,
    ]
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![Just(AR), Just(AO)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let millis = || prop_oneof![0..5u64, 0..1u64 << 41];
    let step = prop_oneof![
        40 => (frames(), cause(), millis()).prop_map(|(f, c, t)| Step::Insert(f, c, t)),
        4 => (frames(), 0..300u64, cause(), millis()).prop_map(|(f, n, c, t)| Step::InsertRange(f, n, c, t)),
        20 => (0..3usize, frames()).prop_map(|(who, f)| Step::Tell(who, f)),
        2 => (0..3usize, 0..500u64).prop_map(|(who, g)| Step::TellBefore(who, g)),
        3 => (0..3usize).prop_map(Step::Register),
        8 => (frames(), 0..300u64).prop_map(|(f, n)| Step::Entrust(f, n)),
        4 => (frames(), 0..300u64).prop_map(|(f, n)| Step::TakeBack(f, n)),
        1 => Just(Step::Clear),
    ];
    prop::collection::vec(step, 0..120)
}

/// The naive ledger: a map of losses and a set of told frames for each recipient.
#[derive(Default)]
struct Model {
    losses: BTreeMap<u64, (Cause, u64, u64)>,
    told: Vec<(String, BTreeSet<u64>)>,
    entrusted: BTreeSet<u64>,
    first: u64,
    generation: u64,
}

impl Model {
    fn insert(&mut self, frame: u64, cause: Cause, millis: u64) -> bool {
        if self.losses.contains_key(&frame) {
            return false;
        }
        self.losses.insert(frame, (cause, millis, self.generation));
        self.generation += 1;
        true
    }

    fn by_age(&self) -> Vec<Loss> {
        let mut losses: Vec<_> = self
            .losses
            .iter()
            .map(|(&frame, &(cause, millis, generation))| Loss {
                gpa: gpa(frame),
                cause,
                time: at(millis),
                generation: Generation::new(generation),
            })
            .collect();
        losses.sort_by_key(|loss| loss.generation);
        losses
    }
}

/// Does the steps to both and compares what each step says.
fn play(steps: Vec<Step>) -> (Ledger, Model) {
    let (mut ledger, mut model) = (Ledger::new(), Model::default());
    for step in steps {
        match step {
            Step::Insert(frame, cause, millis) => assert_eq!(
                ledger.insert(gpa(frame), cause, at(millis)),
                model.insert(frame, cause, millis)
            ),
            Step::InsertRange(frame, frames, cause, millis) => {
                let healthy = (frame..frame + frames)
                    .filter(|&frame| model.insert(frame, cause, millis))
                    .count();
                let lost_now = ledger.insert_range(range(frame, frames), cause, at(millis));
                assert_eq!(lost_now, healthy as u64);
            }
            Step::Tell(who, frame) if who < model.told.len() => {
                let lost = model.losses.contains_key(&frame);
                let told = lost && model.told[who].1.insert(frame);
                assert_eq!(ledger.tell(RecipientId(who), gpa(frame)), told);
            }
            Step::TellBefore(who, generation) if who < model.told.len() => {
                ledger.tell_before(RecipientId(who), Generation::new(generation));
                let before = |(_, loss): &(&u64, &(Cause, u64, u64))| loss.2 < generation;
                let frames = model.losses.iter().filter(before).map(|(&frame, _)| frame);
                model.told[who].1.extend(frames);
            }
            Step::Tell(..) | Step::TellBefore(..) => {}
            Step::Register(who) => {
                let name = format!("recipient {who}");
                let id = ledger.register(&name);
                if !model.told.iter().any(|(known, _)| *known == name) {
                    model.told.push((name.clone(), BTreeSet::new()));
                }
                assert_eq!(model.told[id.0].0, name);
            }
            Step::Entrust(frame, frames) => {
                ledger.entrust(range(frame, frames));
                let lost = model.losses.range(frame..frame + frames);
                model.entrusted.extend(lost.map(|(&frame, _)| frame));
            }
            Step::TakeBack(frame, frames) => {
                ledger.take_back(range(frame, frames));
                let back = frame..frame + frames;
                model.entrusted.retain(|frame| !back.contains(frame));
            }
            Step::Clear => {
                ledger.clear();
                model.entrusted.clear();
                model.losses.clear();
                model.told.iter_mut().for_each(|(_, told)| told.clear());
                model.generation += 1;
                model.first = model.generation;
            }
        }
    }
    (ledger, model)
}

proptest! {
    #[test]
    fn the_ledger_says_what_a_naive_one_says(
        steps in steps(),
        probes in prop::collection::vec((frames(), 0..2000u64), 1..20),
        since in 0..500u64,
    ) {
        let (ledger, model) = play(steps);
        let by_age = model.by_age();
        prop_assert_eq!(ledger.len(), by_age.len() as u64);
        prop_assert_eq!(ledger.generation().get(), model.generation);
        prop_assert!(ledger.iter().eq(model.losses.keys().map(|&frame| gpa(frame))));
        let runs: Vec<_> = ledger.runs().collect();
        prop_assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].start()));
        prop_assert!(runs.iter().flat_map(GpaRange::frames).eq(ledger.iter()));
        match ledger.since(Generation::new(since)) {
            Some(losses) => {
                let expected = by_age.iter().filter(|loss| loss.generation.get() >= since);
                prop_assert!(losses.eq(expected.copied()));
            }
            None => prop_assert!(since < model.first),
        }
        for (who, (_, told)) in model.told.iter().enumerate() {
            let untold = by_age.iter().filter(|l| !told.contains(&(l.gpa.get() / FRAME_SIZE)));
            prop_assert!(ledger.untold(RecipientId(who)).eq(untold.copied()));
        }
        for (frame, frames) in probes {
            let within = range(frame, frames);
            let expected: Vec<_> = model.losses.range(frame..frame + frames).map(|(&f, _)| gpa(f)).collect();
            prop_assert_eq!(ledger.overlaps(&within), !expected.is_empty());
            prop_assert!(ledger.iter_in(&within).eq(expected));
            prop_assert_eq!(ledger.contains(gpa(frame)), model.losses.contains_key(&frame));
            let told: Vec<_> = model.told.iter().filter(|(_, told)| told.contains(&frame)).map(|(name, _)| name.as_str()).collect();
            prop_assert_eq!(ledger.told(gpa(frame)), told.clone());
            let loss = by_age.iter().find(|loss| loss.gpa == gpa(frame));
            let enforcement = match model.entrusted.contains(&frame) {
                true => Enforcement::Guest,
                false => Enforcement::Host,
            };
            prop_assert_eq!(ledger.entry(gpa(frame)), loss.map(|&loss| Entry { loss, enforcement, told }));
            let runs: Vec<_> = ledger.entrusted_in(&within).collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end() < pair[1].start()));
            let entrusted: Vec<_> = model.entrusted.range(frame..frame + frames).map(|&f| gpa(f)).collect();
            prop_assert!(runs.iter().flat_map(GpaRange::frames).eq(entrusted));
            let enforced = ledger.enforced_in(&within).map(|run| run.len()).sum::<u64>();
            let all = ledger.iter_in(&within).count() as u64 * FRAME_SIZE;
            prop_assert_eq!(enforced + runs.iter().map(GpaRange::len).sum::<u64>(), all);
        }
    }

    #[test]
    fn both_forms_give_the_ledger_back(steps in steps()) {
        let (ledger, _) = play(steps);
        let bytes = ledger.to_bytes();
        let decoded = Ledger::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&decoded, &ledger);
        prop_assert_eq!(decoded.to_bytes(), bytes);
        prop_assert!(decoded.iter().eq(ledger.iter()));
        let json = serde_json::to_string(&ledger).unwrap();
        let decoded: Ledger = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&decoded, &ledger);
        prop_assert!(decoded.iter().eq(ledger.iter()));
    }
}
