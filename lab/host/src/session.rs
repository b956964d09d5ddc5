//! The conversation with a machine that is up: a scenario is named, and what comes back, with what the kernel says meanwhile, is its report.

use crate::console;
use crate::monitor::Monitor;
use crate::qemu::{CONSOLE, Machine, QEMU};
use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::{Command, Event, Report, ScenarioInfo, Verdict, decode, encode};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a kernel may take to come up. Software emulation on a busy machine is slow.
const BOOT: Duration = Duration::from_secs(180);

/// A machine that is up.
pub(crate) struct Session {
    stream: BufReader<UnixStream>,
    monitor: Monitor,
    console: PathBuf,
    kernel: String,
    arch: String,
}

impl Session {
    /// Waits until the machine is up.
    pub(crate) fn with(machine: &Machine, directory: &Path) -> Result<Self> {
        let mut session = Self {
            stream: BufReader::new(machine.channel.try_clone()?),
            monitor: Monitor::new(machine.monitor.try_clone()?)
                .with_context(|| messages(&directory.join(QEMU)))?,
            console: directory.join(CONSOLE),
            kernel: String::new(),
            arch: String::new(),
        };
        session.greet()?;
        Ok(session)
    }

    fn greet(&mut self) -> Result<()> {
        match self.receive(Instant::now() + BOOT)? {
            Event::Hello {
                kernel,
                arch,
                troubles,
            } => {
                for trouble in troubles {
                    eprintln!("lab: in the guest: {trouble}");
                }
                (self.kernel, self.arch) = (kernel, arch);
                Ok(())
            }
            other => bail!("the guest said {other:?} before it was up"),
        }
    }

    /// Runs a scenario, and says whether the machine can run another.
    pub(crate) fn scenario(&mut self, scenario: &ScenarioInfo) -> (Report, bool) {
        let console_before = self.console_log().len();
        let mut report = blank(scenario, &self.kernel, &self.arch);
        let start = Instant::now();
        let outcome = self.converse(scenario, start, &mut report);
        report.seconds = start.elapsed().as_secs_f64();
        let alive = outcome.is_ok();
        if let Err(error) = outcome {
            report.verdict = Verdict::Fail;
            report.reason = Some(format!("{error:#}"));
        }
        let log = self.console_log();
        let news = String::from_utf8_lossy(log.get(console_before..).unwrap_or_default());
        if let Some(trouble) = console::trouble(
            news.lines()
                .chain(report.kernel_log.iter().map(String::as_str)),
        ) {
            report.verdict = Verdict::Fail;
            let reason = report
                .reason
                .take()
                .map_or_else(String::new, |r| format!("{r}; "));
            report.reason = Some(format!("{reason}the kernel is in trouble: {trouble}"));
        }
        if report.verdict == Verdict::Fail {
            let seen = std::mem::take(&mut report.kernel_log);
            report.kernel_log = console::excerpt(&news);
            report.kernel_log.extend(seen);
        }
        (report, alive)
    }

    fn converse(
        &mut self,
        scenario: &ScenarioInfo,
        start: Instant,
        report: &mut Report,
    ) -> Result<()> {
        let deadline = start + Duration::from_secs(scenario.needs.seconds.into());
        self.send(&Command::Run {
            scenario: scenario.name.clone(),
        })?;
        report.reason = Some("it ended without a verdict".into());
        loop {
            match self.receive(deadline)? {
                Event::Hello { .. } => bail!("the machine started again"),
                Event::Step { text } => report.steps.push(text),
                Event::Measurement(measurement) => report.measurements.push(measurement),
                Event::Assertion(assertion) => report.assertions.push(assertion),
                Event::Raise(check) => {
                    let error = self.monitor.raise(&check).err();
                    self.send(&Command::Done {
                        error: error.map(|error| format!("{error:#}")),
                    })?;
                }
                Event::Verdict { verdict, reason } => {
                    (report.verdict, report.reason) = (verdict, reason);
                }
                Event::Ended { died, kernel_log } => {
                    report.kernel_log = kernel_log;
                    if let Some(died) = died {
                        report.verdict = Verdict::Fail;
                        report.reason = Some(died);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Switches the machine off.
    pub(crate) fn power_off(&mut self) {
        let _ = self.send(&Command::PowerOff);
    }

    fn send(&mut self, command: &Command) -> Result<()> {
        self.stream
            .get_mut()
            .write_all(encode(command).as_bytes())
            .context("the machine is gone")
    }

    fn receive(&mut self, deadline: Instant) -> Result<Event> {
        let left = deadline.saturating_duration_since(Instant::now());
        // Zero would mean for ever.
        let left = left.max(Duration::from_millis(1));
        self.stream.get_ref().set_read_timeout(Some(left))?;
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => bail!("the machine died"),
            Ok(_) => decode(&line)
                .with_context(|| format!("the guest said something else: `{}`", line.trim_end())),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                bail!("it was not through within its time limit")
            }
            Err(error) => Err(error).context("cannot read from the machine"),
        }
    }

    fn console_log(&self) -> Vec<u8> {
        fs::read(&self.console).unwrap_or_default()
    }
}

/// The report of a scenario that has not run yet.
pub(crate) fn blank(scenario: &ScenarioInfo, kernel: &str, arch: &str) -> Report {
    Report {
        name: scenario.name.clone(),
        kernel: kernel.to_owned(),
        arch: arch.to_owned(),
        verdict: Verdict::Fail,
        reason: None,
        seconds: 0.0,
        measurements: Vec::new(),
        assertions: Vec::new(),
        steps: Vec::new(),
        kernel_log: Vec::new(),
    }
}

fn messages(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    format!("QEMU says: {}", text.trim())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine that is up and, given a scenario, takes a step and dies with this on its console.
    pub(crate) fn dies_with(words: &'static str, logs: &Path) -> Session {
        let (monitor, mut qemu) = UnixStream::pair().unwrap();
        qemu.write_all(b"{\"QMP\":{}}\n{\"return\":{}}\n").unwrap();
        let (stream, guest) = UnixStream::pair().unwrap();
        let console = logs.join(CONSOLE);
        let log = console.clone();
        std::thread::spawn(move || {
            let mut guest = BufReader::new(guest);
            guest.read_line(&mut String::new()).unwrap();
            fs::write(log, words).unwrap();
            let step = encode(&Event::Step {
                text: "a step".into(),
            });
            guest.get_mut().write_all(step.as_bytes()).unwrap();
        });
        Session {
            stream: BufReader::new(stream),
            monitor: Monitor::new(monitor).unwrap(),
            console,
            kernel: String::new(),
            arch: String::new(),
        }
    }
}
