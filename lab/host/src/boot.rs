//! One boot: starts a machine, gives it one scenario after the other, and turns what comes back into reports. A machine that dies, hangs or goes silent fails the scenario that it was at; the others get another machine.

use crate::kernel::Kernel;
use crate::monitor::Monitor;
use crate::options::{Accelerator, Options};
use crate::plan::Batch;
use crate::qemu::{CONSOLE, Machine, QEMU};
use crate::{cache, console, qemu};
use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::{Command, Event, Report, ScenarioInfo, Verdict, decode, encode};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a kernel may take to come up. Software emulation on a busy machine is slow.
const BOOT: Duration = Duration::from_secs(180);

/// What came of a boot: reports, and the scenarios that it did not get to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) reports: Vec<Report>,
    pub(crate) left: Option<Batch>,
}

/// Boots a kernel for a batch. A machine that does not come up fails its scenarios, and nothing else of the run.
pub(crate) fn run(
    options: &Options,
    kernel: &Kernel,
    initramfs: &Path,
    batch: &Batch,
    processor: Option<usize>,
    mut say: impl FnMut(&Report),
) -> Outcome {
    let up = room_for_logs(options).map_err(NotUp::of).and_then(|logs| {
        let start = || qemu::start(options, kernel, initramfs, batch, processor, logs.path());
        let (machine, session) = come_up(options.accelerator, start, logs.path())?;
        Ok((machine, session, logs))
    });
    match up {
        Ok((_machine, session, _logs)) => go_through(session, batch, say),
        Err(not_up) => {
            let reports = not_up.reports(batch, qemu::advice(options.accelerator));
            reports.iter().for_each(&mut say);
            Outcome {
                reports,
                left: None,
            }
        }
    }
}

/// A directory for the console log and QEMU's messages.
fn room_for_logs(options: &Options) -> Result<TempDir> {
    let directory = tempfile::Builder::new()
        .prefix(if options.keep {
            cache::KEPT
        } else {
            cache::BOOT
        })
        .disable_cleanup(options.keep)
        .tempdir_in(&options.cache)
        .context("cannot make a directory for a boot")?;
    if options.keep {
        eprintln!("lab: logs of this boot: {}", directory.path().display());
    }
    Ok(directory)
}

/// Gives a machine that is up its scenarios, as long as it lives.
fn go_through(mut session: Session, batch: &Batch, mut say: impl FnMut(&Report)) -> Outcome {
    let mut reports = Vec::new();
    for (index, scenario) in batch.scenarios.iter().enumerate() {
        let (report, alive) = session.scenario(scenario);
        let mut rest = batch.scenarios[index + 1..].to_vec();
        if !alive && scenario.needs.tries > 1 && console::emulators(&report.kernel_log) {
            eprintln!(
                "lab: {} once more: its machine died of the emulator's timing",
                scenario.name
            );
            let mut again = scenario.clone();
            again.needs.tries -= 1;
            rest.insert(0, again);
        } else {
            say(&report);
            reports.push(report);
        }
        if !alive {
            let left = (!rest.is_empty()).then_some(Batch {
                cpu: batch.cpu,
                guests: batch.guests,
                scenarios: rest,
            });
            return Outcome { reports, left };
        }
    }
    let _ = session.send(&Command::PowerOff);
    Outcome {
        reports,
        left: None,
    }
}

/// Why a machine is not up, and how far its console got.
struct NotUp {
    error: anyhow::Error,
    console: Vec<String>,
}

impl NotUp {
    fn of(error: anyhow::Error) -> Self {
        Self {
            error,
            console: Vec::new(),
        }
    }

    /// The reports of what should have run there.
    fn reports(&self, batch: &Batch, advice: &str) -> Vec<Report> {
        let reason = format!("{advice}: {:#}", self.error);
        let report = |scenario| Report {
            reason: Some(reason.clone()),
            kernel_log: self.console.clone(),
            ..blank(scenario, "", "")
        };
        batch.scenarios.iter().map(report).collect()
    }
}

/// The report of a scenario that has not run yet.
fn blank(scenario: &ScenarioInfo, kernel: &str, arch: &str) -> Report {
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

/// Starts a machine and waits until it is up. In software emulation a boot now and then dies for no reason of the kernel's own, so one that does not come up is tried once more.
fn come_up(
    accelerator: Accelerator,
    start: impl Fn() -> Result<Machine>,
    directory: &Path,
) -> Result<(Machine, Session), NotUp> {
    let mut tries = match accelerator {
        Accelerator::Tcg => 2,
        Accelerator::Kvm => 1,
    };
    loop {
        let up = start().and_then(|machine| {
            let session = Session::with(&machine, directory)?;
            Ok((machine, session))
        });
        tries -= 1;
        match up {
            Ok(up) => return Ok(up),
            Err(_) if tries > 0 => {}
            Err(error) => {
                let log = fs::read(directory.join(CONSOLE)).unwrap_or_default();
                return Err(NotUp {
                    error,
                    console: console::end(&String::from_utf8_lossy(&log)),
                });
            }
        }
    }
}

struct Session {
    stream: BufReader<UnixStream>,
    monitor: Monitor,
    console: PathBuf,
    kernel: String,
    arch: String,
}

impl Session {
    /// Waits until the machine is up.
    fn with(machine: &Machine, directory: &Path) -> Result<Self> {
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
    fn scenario(&mut self, scenario: &ScenarioInfo) -> (Report, bool) {
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

fn messages(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    format!("QEMU says: {}", text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagemend_lab_protocol::{Cpu, Needs, Set};

    #[test]
    fn a_machine_that_cannot_be_started_fails_each_of_its_scenarios() {
        let scenario = |name: &str| ScenarioInfo {
            name: name.into(),
            proves: String::new(),
            needs: Needs::NOTHING,
            set: Set::All,
        };
        let batch = Batch {
            cpu: Cpu::Amd,
            guests: false,
            scenarios: vec![scenario("a/one"), scenario("a/two")],
        };
        let logs = tempfile::tempdir().unwrap();
        fs::write(logs.path().join(CONSOLE), "last words").unwrap();
        let start = || bail!("cannot start it");
        let not_up = come_up(Accelerator::Tcg, start, logs.path()).err().unwrap();
        for (report, name) in not_up.reports(&batch, "no").iter().zip(["a/one", "a/two"]) {
            assert_eq!(
                (report.name.as_str(), report.verdict),
                (name, Verdict::Fail)
            );
            assert_eq!(report.reason.as_deref(), Some("no: cannot start it"));
            assert_eq!(report.kernel_log, ["last words"]);
        }
        assert_eq!(not_up.reports(&batch, "no").len(), 2);
    }
}
