//! What a scenario has in hand: it says what it does, what it sees and what it claims. And the process around it.

use crate::channel::Channel;
use crate::{faults, registry};
use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::{Assertion, Command, Event, MachineCheck, Measurement, Verdict};
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A running scenario.
pub(crate) struct Trial {
    channel: Channel,
    deadline: Instant,
    broken: Vec<String>,
}

/// Why a scenario cannot be run here: an error that is no failure.
#[derive(Debug)]
struct Skip(String);

/// The error that ends a scenario without a verdict: this kernel or machine lacks what it needs.
pub(crate) fn lacking(reason: impl Into<String>) -> anyhow::Error {
    Skip(reason.into()).into()
}

/// The verdict on a scenario that ended with an error.
pub(crate) fn given_up(error: &anyhow::Error) -> Event {
    Event::Verdict {
        verdict: match error.is::<Skip>() {
            true => Verdict::Skip,
            false => Verdict::Fail,
        },
        reason: Some(format!("{error:#}")),
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

impl Trial {
    /// Says what comes next.
    pub(crate) fn step(&mut self, text: impl Into<String>) {
        self.send(&Event::Step { text: text.into() });
    }

    /// Says what was seen: a number, a text, yes or no.
    pub(crate) fn saw(&mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) {
        self.send(&Event::Measurement(Measurement {
            name: name.into(),
            value: value.into(),
        }));
    }

    /// Claims something; a claim that does not hold fails the scenario, which goes on.
    pub(crate) fn claim(&mut self, claim: impl Into<String>, holds: bool) {
        self.record(claim.into(), holds, None);
    }

    /// Claims that what was found is what was expected.
    pub(crate) fn equal<T: PartialEq + fmt::Debug>(
        &mut self,
        claim: impl Into<String>,
        found: T,
        expected: T,
    ) {
        let holds = found == expected;
        let found = if holds {
            format!("{found:?}")
        } else {
            format!("{found:?}, expected {expected:?}")
        };
        self.record(claim.into(), holds, Some(found));
    }

    /// Ends the scenario without a verdict on what it proves.
    pub(crate) fn skip(&self, reason: impl Into<String>) -> Result<()> {
        Err(lacking(reason))
    }

    /// Asks the host for a machine check and waits until it is raised.
    pub(crate) fn raise(&mut self, check: MachineCheck) -> Result<()> {
        self.channel.send(&Event::Raise(check))?;
        match self.channel.receive()? {
            Command::Done { error: None } => Ok(()),
            Command::Done { error: Some(error) } => {
                bail!("the host cannot raise a machine check: {error}")
            }
            other => bail!("the host answered {other:?}"),
        }
    }

    /// When the host will lose patience.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    fn record(&mut self, claim: String, holds: bool, found: Option<String>) {
        if !holds {
            self.broken.push(claim.clone());
        }
        self.send(&Event::Assertion(Assertion {
            claim,
            holds,
            found,
        }));
    }

    fn send(&mut self, event: &Event) {
        self.channel
            .send(event)
            .expect("without the channel a scenario has nobody to tell, and the host sees it die");
    }
}

/// The whole life of a scenario's process.
pub(crate) fn run(name: &str) -> ExitCode {
    match try_run(name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(name: &str) -> Result<()> {
    let scenario = registry::all()
        .into_iter()
        .find(|scenario| scenario.info.name == name)
        .context("there is no such scenario")?;
    faults::install().context("cannot catch SIGBUS")?;
    let mut trial = Trial {
        channel: Channel::open()?,
        deadline: Instant::now() + Duration::from_secs(scenario.info.needs.seconds.into()),
        broken: Vec::new(),
    };
    let outcome = (scenario.run)(&mut trial);
    let verdict = match outcome {
        Ok(()) if trial.broken.is_empty() => Event::Verdict {
            verdict: Verdict::Pass,
            reason: None,
        },
        Ok(()) => Event::Verdict {
            verdict: Verdict::Fail,
            reason: Some(format!("not so: {}", trial.broken.join("; "))),
        },
        Err(error) => given_up(&error),
    };
    trial.channel.send(&verdict)
}
