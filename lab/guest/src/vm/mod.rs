//! A virtual machine with a stock kernel and the walker in it, under pagemend's VMM or under QEMU: started, talked to, and made to fail.
//!
//! The order of the files is the order of things: `wish` says what machine is wanted and how each VMM is asked for it → `start` gets it going → `line` is the walker's serial port → `memory` finds a guest's frame in the host and breaks it → `api` steers pagemend's VMM, and `events` follows what it reports → `outcome` says what it came to.

mod api;
pub(crate) mod events;
pub(crate) mod kvm;
mod late;
pub(crate) mod line;
pub(crate) mod memory;
pub(crate) mod outcome;
mod start;
pub(crate) mod wish;

use crate::trial::Trial;
use anyhow::{Context, Result, bail};
use events::Events;
use line::{Heard, Line};
use memory::{GuestMemory, Mapped};
use pagemend_lab_protocol::walker::{Order, Survey, Use, Word};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};
use wish::Vmm;

/// What is left of a scenario's time for saying why a guest fell silent.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Who has not answered an order for so long is not alive, also on a busy machine.
const SILENCE: Duration = Duration::from_secs(90);

/// Frames that are tried where the host's kernel cannot take one away.
const TRIES: u64 = 16;

/// What a survey may take on a busy machine.
const LAST_SURVEY: Duration = Duration::from_secs(40);

/// What has become of a guest.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It goes on, and this is what its walker has seen.
    Lives(Survey),
    /// It has started again, for its kernel did not survive.
    StartedAgain,
    /// Its VMM has ended.
    Over(String),
    /// It hangs: these are its last words.
    Silent(String),
}

/// A running virtual machine. It is gone when this is dropped.
pub(crate) struct Vm {
    child: Child,
    line: Line,
    memory: GuestMemory,
    directory: PathBuf,
    deadline: Instant,
    vmm: Vmm,
    paused: bool,
    silent: bool,
    /// Bytes that the walker owns.
    pub(crate) owned: u64,
    /// Frames that failed since the last start.
    pub(crate) failed: Vec<(u64, Use)>,
    /// What KVM had decoded when the first of them failed.
    pub(crate) decoded_before: Option<u64>,
}

impl Vm {
    fn hear(&mut self) -> Result<Heard> {
        let heard = self
            .line
            .hear(self.deadline.min(Instant::now() + SILENCE))?;
        self.silent = matches!(heard, Heard::Silence);
        Ok(heard)
    }

    /// Orders something that has an answer; `None` is a guest that is gone.
    pub(crate) fn order(&mut self, order: &Order) -> Result<Option<Word>> {
        if self.line.say(order).is_err() {
            return Ok(None);
        }
        match self.hear()? {
            Heard::Word(word) => Ok(Some(word)),
            Heard::End | Heard::Silence => Ok(None),
        }
    }

    fn living(&mut self, order: &Order) -> Result<Word> {
        match self.order(order)? {
            Some(Word::Hello { .. }) => bail!("the guest started again: {}", self.last_words()),
            Some(word) => Ok(word),
            None if self.silent => bail!("the guest hangs: {}", self.last_words()),
            None => bail!("the VMM ended with {}; {}", self.wait()?, self.last_words()),
        }
    }

    /// A frame that is used so.
    pub(crate) fn locate(&mut self, what: Use, number: u64) -> Result<u64> {
        match self.living(&Order::Locate { what, number })? {
            Word::Frame { frame } => Ok(frame),
            Word::Done { error: Some(error) } => bail!("the walker cannot find {what:?}: {error}"),
            other => bail!("the walker answered {other:?}"),
        }
    }

    /// The guest kernel's flags of a frame.
    pub(crate) fn flags(&mut self, frame: u64) -> Result<u64> {
        match self.living(&Order::Flags { frame })? {
            Word::Flags { flags } => Ok(flags),
            other => bail!("the walker answered {other:?}"),
        }
    }

    /// Has the walker stop or go on or write its file; what it says went wrong is an error.
    pub(crate) fn done(&mut self, order: &Order) -> Result<Option<String>> {
        match self.living(order)? {
            Word::Done { error } => Ok(error),
            other => bail!("the walker answered {other:?}"),
        }
    }

    /// The lines of the guest kernel's log with this text, when there are so many or no more come.
    pub(crate) fn log(&mut self, text: &str, lines: usize) -> Result<Vec<String>> {
        let text = text.to_owned();
        match self.living(&Order::Await { text, lines })? {
            Word::Log { lines } => Ok(lines),
            other => bail!("the walker answered {other:?}"),
        }
    }

    /// Makes a frame of the guest fail, as a scrubber would find it, and says whether that came to anything.
    pub(crate) fn fail(&mut self, what: Use, frame: u64) -> Result<bool> {
        if self.failed.is_empty() {
            self.decoded_before = kvm::decoded();
        }
        // What QEMU's guest has lost stays lost until it starts again. Of two signals that come at once the kernel keeps one, and nobody touches the other's page while the guest is paused.
        let comes_back = self.vmm == Vmm::Pagemend && !self.paused;
        let failed = self.memory.fail(frame, comes_back, self.deadline);
        let failed = match failed {
            // A VMM that has ended has no memory; what has become of it the next survey says.
            Err(error) if memory::belongs_to_nobody(&error) => false,
            other => other.with_context(|| self.last_words())?,
        };
        if failed {
            self.failed.push((frame, what));
        }
        Ok(failed)
    }

    /// Makes a frame that is used so fail: from this number on the first that can.
    pub(crate) fn fail_one(&mut self, t: &mut Trial, what: Use, number: u64) -> Result<u64> {
        for number in number..number + TRIES {
            let frame = self.locate(what, number)?;
            t.step(format!("an error in {what:?}, frame {frame:#x}"));
            if self.fail(what, frame)? {
                return Ok(frame);
            }
        }
        bail!("the host's kernel takes none of {TRIES} frames away")
    }

    /// Checks all memory once more.
    pub(crate) fn survey(&mut self, t: &mut Trial) -> Result<Fate> {
        match self.order(&Order::Survey)? {
            Some(Word::Survey(survey)) => Ok(Fate::Lives(survey)),
            other => self.gone(t, other),
        }
    }

    /// Lets the walker go on, where its threads first read these frames all at one instant, and checks all memory once more.
    pub(crate) fn go_and_survey(&mut self, t: &mut Trial, together: &[u64]) -> Result<Fate> {
        let together = together.to_vec();
        match self.order(&Order::Go { together })? {
            Some(Word::Done { error: None }) => self.survey(t),
            other => self.gone(t, other),
        }
    }

    /// What has become of a guest that did not answer with what was asked for.
    pub(crate) fn gone(&mut self, t: &mut Trial, answer: Option<Word>) -> Result<Fate> {
        match answer {
            Some(hello @ Word::Hello { .. }) => {
                self.met(t, hello)?;
                Ok(Fate::StartedAgain)
            }
            Some(other) => bail!("the walker answered {other:?}"),
            None if self.silent => Ok(Fate::Silent(self.last_words())),
            None => {
                let status = self.wait()?;
                Ok(Fate::Over(format!("{status}; {}", said(&self.directory))))
            }
        }
    }

    /// Checks memory until the guest's kernel has spoken of all these frames, or is no more.
    pub(crate) fn told(&mut self, t: &mut Trial, frames: &BTreeSet<u64>) -> Result<Fate> {
        loop {
            match self.survey(t)? {
                Fate::Lives(survey) if !survey.failures.is_superset(frames) => {
                    if Instant::now() + LAST_SURVEY > self.deadline {
                        bail!(
                            "the guest never hears of its errors: {survey:?}; its last words: {}",
                            self.last_words()
                        );
                    }
                }
                fate => return Ok(fate),
            }
        }
    }

    /// The same, and once more: whoever was told of an error and has not touched it does so in the next round.
    pub(crate) fn settle(&mut self, t: &mut Trial, frames: &BTreeSet<u64>) -> Result<Fate> {
        match self.told(t, frames)? {
            Fate::Lives(_) => self.survey(t),
            fate => Ok(fate),
        }
    }

    /// Has pagemend's VMM do something: a `PUT` of its API.
    pub(crate) fn steer(&mut self, path: &str) -> Result<()> {
        self.paused = path == "vm.pause";
        api::ask(&self.directory.join(wish::API), "PUT", path).map(drop)
    }

    /// What pagemend's VMM says of the machine.
    pub(crate) fn info(&self) -> Result<Value> {
        let info = api::ask(&self.directory.join(wish::API), "GET", "vm.info")?;
        serde_json::from_str(&info).context("what the VMM says of the machine is no JSON")
    }

    /// What pagemend's VMM reports from now on.
    pub(crate) fn events(&self) -> Result<Events> {
        Events::follow(&self.directory.join(wish::API), self.deadline)
    }

    /// The lost frames that pagemend's VMM has recorded.
    pub(crate) fn ledger(&self) -> Result<BTreeSet<u64>> {
        let ledger = api::ask(&self.directory.join(wish::API), "GET", "memory.ledger")?;
        api::lost_frames(&ledger)
    }

    /// Those of them that can be touched, because the guest keeps off them by itself.
    pub(crate) fn entrusted(&self) -> Result<BTreeSet<u64>> {
        let ledger = api::ask(&self.directory.join(wish::API), "GET", "memory.ledger")?;
        api::entrusted_frames(&ledger)
    }

    /// What of the guest's memory the VMM has mapped, besides hugetlb pages.
    pub(crate) fn mapped(&self) -> Result<Mapped> {
        self.memory.mapped()
    }

    /// Whether there is time for another survey.
    pub(crate) fn has_time(&self) -> bool {
        Instant::now() + LAST_SURVEY < self.deadline
    }

    /// Has the guest switch itself off, and gives how its VMM ended.
    pub(crate) fn power_off(mut self) -> Result<ExitStatus> {
        self.line.say(&Order::PowerOff)?;
        match self.hear()? {
            Heard::End => self.wait(),
            Heard::Word(word) => bail!("the walker said {word:?} instead of going"),
            Heard::Silence => bail!("the guest does not go: {}", self.last_words()),
        }
    }

    /// Waits for the end of a VMM that has closed its side of the line.
    fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("cannot wait for a VMM")
    }

    /// Why the guest's kernel panicked, if it did.
    pub(crate) fn panic(&self) -> Option<String> {
        let text = self.console();
        let line = text.lines().find(|line| line.contains("Kernel panic"))?;
        Some(
            line.split_once("Kernel panic")
                .map_or(line, |(_, why)| why)
                .trim_start_matches([' ', '-'])
                .trim()
                .to_owned(),
        )
    }

    /// The ends of what the guest's kernel, the VMM and its events have to say.
    fn last_words(&self) -> String {
        let tail = |text: String| {
            let lines: Vec<_> = text.lines().collect();
            lines[lines.len().saturating_sub(12)..].join(" | ")
        };
        let events = fs::read_to_string(self.directory.join(wish::EVENTS)).unwrap_or_default();
        let (console, events) = (tail(self.console()), tail(events));
        format!("{console}; {}; its events: {events}", said(&self.directory))
    }

    /// The events of pagemend's VMM that say why its guest started again.
    pub(crate) fn resets(&self) -> Vec<String> {
        let events = fs::read_to_string(self.directory.join(wish::EVENTS)).unwrap_or_default();
        let why = events.lines().filter(|line| line.contains("reset"));
        why.map(ToOwned::to_owned).collect()
    }

    /// Whether pagemend's VMM has reported such an event.
    pub(crate) fn reported(&self, meant: impl Fn(&Value) -> bool) -> bool {
        let events = fs::read_to_string(self.directory.join(wish::EVENTS)).unwrap_or_default();
        // The last line may not be whole yet.
        let mut events = events.lines().flat_map(serde_json::from_str);
        events.any(|event| meant(&event))
    }

    fn console(&self) -> String {
        let bytes = fs::read(self.directory.join(wish::CONSOLE)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What the VMM had to say.
fn said(directory: &std::path::Path) -> String {
    let text = fs::read_to_string(directory.join(wish::MESSAGES)).unwrap_or_default();
    format!("the VMM said: {}", text.trim())
}
