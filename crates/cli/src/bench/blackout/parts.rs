//! What a wait consists of, and what a page's coming back does, by the mender's own account: it
//! says what limits them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use pagemend::{Action, Event, Step};
use serde::Serialize;

use crate::bench::table::time;

/// A wait: its parts, all in microseconds, are all of it.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Wait {
    /// From the touch to the mender, and back from there to the vCPU.
    signals_us: f64,
    /// Finding out what is to be done, and telling what was.
    telling_us: f64,
    /// Covering the page, where it is mended on demand.
    cover_us: f64,
    /// Getting new memory, which the kernel zeroes.
    memory_us: f64,
    /// Reading the page into it.
    reading_us: f64,
    /// Writing what was read to pages of 4 KiB, marking what is lost, and moving it in place.
    placing_us: f64,
}

impl Wait {
    /// Microseconds of all of it.
    pub(super) fn whole(&self) -> f64 {
        self.parts().iter().map(|(_, micros)| micros).sum()
    }

    fn parts(&self) -> [(&'static str, f64); 6] {
        [
            ("signals", self.signals_us),
            ("deciding and telling", self.telling_us),
            ("cover", self.cover_us),
            ("new memory", self.memory_us),
            ("reading", self.reading_us),
            ("writing, marking and moving", self.placing_us),
        ]
    }
}

/// The wait at a percentile of all.
#[derive(Serialize)]
pub(super) struct WaitAt {
    percentile: u8,
    #[serde(flatten)]
    wait: Wait,
}

impl WaitAt {
    pub(super) fn of(mut waits: Vec<Wait>) -> Vec<Self> {
        waits.sort_by(|one, other| one.whole().total_cmp(&other.whole()));
        let at = |percentile: u8| {
            let rank = (waits.len() * usize::from(percentile)).div_ceil(100);
            let wait = *waits.get(rank.checked_sub(1)?)?;
            Some(Self { percentile, wait })
        };
        [50, 99].into_iter().filter_map(at).collect()
    }

    pub(super) fn write(&self, out: &mut impl Write, name: &str) -> io::Result<()> {
        let parts = listed(&self.wait.parts());
        writeln!(out, "{name}: the wait at p{} is {parts}", self.percentile)
    }
}

/// What 2 MiB of a page took that came back in the background, on average.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(super) struct Stream {
    memory_us: f64,
    reading_us: f64,
    placing_us: f64,
    /// Everything else: telling, waiting for a processor, faults in between.
    other_us: f64,
}

impl Stream {
    fn parts(&self) -> [(&'static str, f64); 4] {
        [
            ("new memory", self.memory_us),
            ("reading", self.reading_us),
            ("writing, marking and moving", self.placing_us),
            ("all else", self.other_us),
        ]
    }

    /// The one that took neither longer nor shorter than most.
    pub(super) fn median(mut streams: Vec<Self>) -> Option<Self> {
        let whole = |stream: &Self| stream.parts().iter().map(|(_, part)| part).sum::<f64>();
        streams.sort_by(|one, other| whole(one).total_cmp(&whole(other)));
        let rank = streams.len().div_ceil(2);
        streams.get(rank.checked_sub(1)?).copied()
    }

    pub(super) fn write(&self, out: &mut impl Write, name: &str) -> io::Result<()> {
        let parts = listed(&self.parts());
        writeln!(out, "{name}: each 2 MiB in the background are {parts}")
    }
}

fn listed(parts: &[(&str, f64)]) -> String {
    let each = parts.iter().filter(|(_, micros)| *micros > 0.0);
    let each = each.map(|(name, micros)| format!("{name} {}", time(*micros)));
    each.collect::<Vec<_>>().join(", ")
}

/// What the mender has done for one fault so far, in nanoseconds.
#[derive(Clone, Copy, Default)]
struct Account {
    cover: u64,
    memory: u64,
    reading: u64,
    placing: u64,
    /// From the fault's arrival to its answer, once there is one.
    answered: Option<u64>,
    /// In the background.
    stretches: u64,
}

impl Account {
    fn all(&self) -> u64 {
        self.cover + self.memory + self.reading + self.placing
    }
}

/// Adds up the steps of each fault, as events tell of them.
#[derive(Default)]
pub(super) struct Accounts {
    open: BTreeMap<u64, Account>,
    /// What answering took, without signals, in the order of the faults.
    answers: Vec<(Account, u64)>,
    streams: Vec<Stream>,
}

impl Accounts {
    pub(super) fn add(&mut self, event: &Event) {
        let account = self.open.entry(event.fault).or_default();
        let took = event.duration_ns;
        match &event.step {
            Step::Cover => account.cover += took,
            Step::Stage => account.memory += took,
            Step::Salvage { .. } => account.reading += took,
            Step::Poison { .. } | Step::Swap { .. } => account.placing += took,
            Step::Fill {
                part,
                touched,
                took,
                ..
            } if *touched == account.answered.is_none() => {
                account.memory += took.stage_ns;
                account.reading += took.salvage_ns;
                account.placing += took.poison_ns + took.swap_ns;
                account.stretches += part.len() >> 21;
            }
            Step::Done {
                action: Some(Action::Mend),
                total_ns,
                ..
            } => {
                self.answers.push((*account, *total_ns));
                // From here on, what comes back in the background.
                *account = Account {
                    answered: Some(*total_ns),
                    ..Account::default()
                };
            }
            Step::Complete { total_ns, .. } => {
                let stream = account.stream(*total_ns);
                self.streams.extend(stream);
            }
            _ => {}
        }
    }

    /// The waits, of which each took so many microseconds, and pages that came back.
    pub(super) fn close(self, waits: &[f64]) -> (Vec<Wait>, Vec<Stream>) {
        let waits = self
            .answers
            .iter()
            .zip(waits)
            .map(|((account, total), all)| {
                let micros = |nanos: u64| nanos as f64 / 1e3;
                Wait {
                    signals_us: all - micros(*total),
                    telling_us: micros(total.saturating_sub(account.all())),
                    cover_us: micros(account.cover),
                    memory_us: micros(account.memory),
                    reading_us: micros(account.reading),
                    placing_us: micros(account.placing),
                }
            });
        (waits.collect(), self.streams)
    }
}

impl Account {
    /// What a page's coming back took in the background, where it did.
    fn stream(&self, total_ns: u64) -> Option<Stream> {
        let background = total_ns.checked_sub(self.answered?)?;
        let each = |nanos: u64| nanos as f64 / self.stretches as f64 / 1e3;
        (self.stretches > 0).then(|| Stream {
            memory_us: each(self.memory),
            reading_us: each(self.reading),
            placing_us: each(self.placing),
            other_us: each(background.saturating_sub(self.all())),
        })
    }
}
