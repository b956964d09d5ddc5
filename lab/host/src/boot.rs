//! One boot: starts a machine and gives it one scenario after the other. A machine that dies, hangs or goes silent fails the scenario that it was at; the others get another machine.

use crate::kernel::Kernel;
use crate::options::{Accelerator, Options};
use crate::plan::Batch;
use crate::qemu::{CONSOLE, Machine};
use crate::repeats::RUN_AGAIN;
use crate::session::{Session, blank};
use crate::{cache, console, qemu};
use anyhow::{Context, Result};
use pagemend_lab_protocol::Report;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

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
        let (mut report, alive) = session.scenario(scenario);
        if index == 0 {
            report.steps.splice(..0, batch.before.iter().cloned());
        }
        let mut rest = batch.scenarios[index + 1..].to_vec();
        let mut before = Vec::new();
        if !alive && scenario.needs.tries > 1 && console::emulators(&report.kernel_log) {
            eprintln!(
                "lab: {} once more: its machine died of the emulator's timing",
                scenario.name
            );
            let mut again = scenario.clone();
            again.needs.tries -= 1;
            rest.insert(0, again);
            before = report.steps;
            before.push(RUN_AGAIN.into());
        } else {
            say(&report);
            reports.push(report);
        }
        if !alive {
            let left = (!rest.is_empty()).then_some(Batch {
                cpu: batch.cpu,
                guests: batch.guests,
                scenarios: rest,
                before,
            });
            return Outcome { reports, left };
        }
    }
    session.power_off();
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
        let mut reports: Vec<_> = batch.scenarios.iter().map(report).collect();
        if let Some(first) = reports.first_mut() {
            first.steps.clone_from(&batch.before);
        }
        reports
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::dies_with;
    use anyhow::bail;
    use pagemend_lab_protocol::{Cpu, Needs, ScenarioInfo, Set, Verdict};

    fn scenario(name: &str) -> ScenarioInfo {
        ScenarioInfo {
            name: name.into(),
            proves: String::new(),
            needs: Needs::NOTHING,
            set: Set::All,
        }
    }

    #[test]
    fn a_scenario_whose_machine_the_emulator_killed_is_run_again_and_says_so() {
        let mut trying = scenario("a/one");
        trying.needs = trying.needs.tries(2);
        let first = Batch {
            cpu: Cpu::Amd,
            guests: false,
            scenarios: vec![trying, scenario("a/two")],
            before: Vec::new(),
        };
        let die = |batch: &Batch| {
            let logs = tempfile::tempdir().unwrap();
            go_through(dies_with("Oops: int3", logs.path()), batch, |_| {})
        };
        let once = die(&first);
        assert!(once.reports.is_empty());
        let second = once.left.unwrap();
        assert_eq!(second.scenarios.len(), 2);

        let twice = die(&second);
        assert_eq!(twice.reports[0].name, "a/one");
        assert_eq!(twice.reports[0].steps, ["a step", RUN_AGAIN, "a step"]);
        let third = twice.left.unwrap();
        assert_eq!(
            (third.scenarios.len(), third.before),
            (1, Vec::<String>::new())
        );
    }

    #[test]
    fn a_machine_that_cannot_be_started_fails_each_of_its_scenarios() {
        let batch = Batch {
            cpu: Cpu::Amd,
            guests: false,
            scenarios: vec![scenario("a/one"), scenario("a/two")],
            before: vec![RUN_AGAIN.into()],
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
        let reports = not_up.reports(&batch, "no");
        assert_eq!(reports.len(), 2);
        assert_eq!(reports[0].steps, [RUN_AGAIN]);
        assert!(reports[1].steps.is_empty());
    }
}
