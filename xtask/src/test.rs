//! `cargo xtask test`: everything that must hold before a change is one.
//!
//! Steps run one after another, each into a log of its own, so that what is printed is short: a
//! line a step, and the end of the log of one that failed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;

use crate::{limit, tools};

/// How long a step may take. The longest, the lab, takes half of this; a test that hangs shall be
/// named in a log while someone still reads it.
const LIMIT: Duration = Duration::from_secs(1500);

/// Arguments of `cargo xtask test`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Seeded schedules that the engine is run through on its model host; 3000 unless said
    #[arg(long, value_name = "N")]
    cases: Option<u64>,
    /// Leave out the lab, which boots kernels in QEMU
    #[arg(long)]
    no_lab: bool,
}

struct Step {
    name: &'static str,
    command: Command,
    /// Why it cannot run here, and what would change that.
    missing: Option<String>,
}

/// What cross-compiles for arm64: the libraries and the command line. Their tests would need a C
/// compiler for arm64, except those of the crate that is about it.
const CROSS_CHECKED: [&str; 7] = [
    "pagemend-core",
    "pagemend-linux",
    "pagemend-guest",
    "pagemend",
    "pagemend-cper",
    "pagemend-arm64",
    "pagemend-cli",
];

/// Runs all steps, whatever fails, and says in the end what did.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask lies in the workspace")?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    let logs = target.join("test-logs");
    fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;

    let mut tally = Tally::default();
    for step in steps(arguments, &logs) {
        step.run(workspace, &logs, &mut tally)?;
    }
    match tally.skipped {
        0 => println!("{} passed, {} failed", tally.passed, tally.failed),
        skipped => println!(
            "{} passed, {} failed, {skipped} skipped",
            tally.passed, tally.failed
        ),
    }
    Ok(match tally.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

fn steps(arguments: &Arguments, logs: &Path) -> Vec<Step> {
    let step = |name, words: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(words);
        Step {
            name,
            command,
            missing: None,
        }
    };
    let no_arm64 = tools::arm64_target().err();
    let mut steps = vec![
        step("format", &["fmt", "--all", "--check"]),
        step(
            "clippy",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
        step("documentation", &["doc", "--workspace", "--no-deps"]),
        Step {
            missing: no_arm64.clone(),
            ..cross(step)
        },
        Step {
            missing: no_arm64,
            ..step(
                "arm64 values",
                &[
                    "check",
                    "--target",
                    tools::ARM64,
                    "--tests",
                    "--package",
                    "pagemend-arm64",
                ],
            )
        },
        step("tests", &["test", "--workspace", "--no-fail-fast"]),
        // Optimised, because that is what users run, and because the linker then sees it all.
        step("demo", &["run", "--release", "--", "demo", "--json"]),
    ];
    for step in &mut steps {
        match step.name {
            "documentation" => step.command.env("RUSTDOCFLAGS", "-D warnings"),
            "tests" => step.command.envs(
                arguments
                    .cases
                    .map(|cases| ("PAGEMEND_CASES", cases.to_string())),
            ),
            _ => &mut step.command,
        };
    }
    // The tests of tables ask iasl, and say so where it is not there.
    if let Err(why) = tools::iasl() {
        println!("note: {why}");
    }
    if !arguments.no_lab {
        let mut lab = step("lab", &["xtask", "lab", "--json"]);
        lab.command.arg(logs.join("lab.json"));
        steps.push(lab);
        steps.push(step("lab can fail", &["xtask", "lab", "--self-test"]));
    }
    steps
}

/// The libraries and the command line, for arm64.
fn cross(step: impl Fn(&'static str, &[&str]) -> Step) -> Step {
    let mut words = vec!["check", "--target", tools::ARM64];
    for package in CROSS_CHECKED {
        words.extend(["--package", package]);
    }
    step("arm64", &words)
}

impl Step {
    fn run(mut self, workspace: &Path, logs: &Path, tally: &mut Tally) -> Result<()> {
        if let Some(why) = &self.missing {
            println!("{:<14} {:<7} {why}", self.name, "skipped");
            tally.skipped += 1;
            return Ok(());
        }
        let log = logs.join(format!("{}.log", self.name.replace(' ', "-")));
        let file = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let started = Instant::now();
        self.command
            .current_dir(workspace)
            .stderr(file.try_clone()?)
            .stdout(file);
        let ended = limit::run(&mut self.command, LIMIT)
            .with_context(|| format!("running {:?}", self.command))?;
        let success = ended.is_some_and(|status| status.success());
        let text = fs::read_to_string(&log).unwrap_or_default();
        let (counted, success) = tally.count(&text, success);
        let seconds = started.elapsed().as_secs_f64();
        let verdict = if success { "ok" } else { "FAILED" };
        println!("{:<14} {verdict:<7} {seconds:>6.1} s  {counted}", self.name);
        if ended.is_none() {
            println!(
                "    it was not through in {} s, and was ended",
                LIMIT.as_secs()
            );
        }
        if !success {
            let lines: Vec<_> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(60)..] {
                println!("    {line}");
            }
            println!("    all of it: {}", log.display());
        }
        Ok(())
    }
}

/// How many tests there were, and how they ended.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    /// Adds a step: the tests that its log counts, or the step itself where it counts none. Gives
    /// what it counted, in words, and whether the step is a success: where tests were skipped it is
    /// none, because here they run on what they are made for.
    fn count(&mut self, log: &str, success: bool) -> (String, bool) {
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for line in log.lines() {
            let line = line.strip_prefix("test result: ").unwrap_or(line);
            let is_summary = line.contains(" passed") && line.contains(" failed");
            for part in line.split([';', ',', '.']).filter(|_| is_summary) {
                match part.trim().split_once(' ') {
                    Some((number, "passed")) => passed += number.parse().unwrap_or(0),
                    Some((number, "failed")) => failed += number.parse().unwrap_or(0),
                    Some((number, "skipped")) => skipped += number.parse().unwrap_or(0),
                    _ => {}
                }
            }
        }
        let words = match (passed + failed + skipped, skipped) {
            (0, _) => String::new(),
            (tests, 0) => format!("{tests} tests"),
            (tests, _) => format!("{tests} tests, {skipped} skipped"),
        };
        let success = success && skipped == 0;
        // A step can fail without a failed test, by not being built for one.
        match (passed + failed, success) {
            (0, true) => passed = 1,
            (_, false) => failed = failed.max(1),
            _ => {}
        }
        self.passed += passed;
        self.failed += failed;
        self.skipped += skipped;
        (words, success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(log: &str, success: bool) -> (u64, u64) {
        let mut tally = Tally::default();
        tally.count(log, success);
        (tally.passed, tally.failed)
    }

    #[test]
    fn the_tests_of_all_binaries_are_added_up() {
        let log = "test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
                   noise, with 3 passed in it\n\
                   test result: FAILED. 7 passed; 2 failed; 0 ignored\n\
                   \n3 passed, 0 failed, 0 skipped\n";
        assert_eq!(counted(log, false), (50, 2));
    }

    #[test]
    fn a_step_that_skips_tests_fails() {
        let mut tally = Tally::default();
        let all = tally.count("0 passed, 0 failed, 141 skipped", true);
        assert_eq!(all, ("141 tests, 141 skipped".to_owned(), false));
        let one = tally.count("140 passed, 0 failed, 1 skipped", true);
        assert_eq!(one, ("141 tests, 1 skipped".to_owned(), false));
        assert_eq!((tally.passed, tally.failed, tally.skipped), (140, 2, 142));
    }

    #[test]
    fn a_step_that_counts_nothing_counts_as_one() {
        assert_eq!(counted("Checking pagemend", true), (1, 0));
        assert_eq!(counted("error: could not compile", false), (0, 1));
        assert_eq!(
            counted("test result: ok. 3 passed; 0 failed", false),
            (3, 1)
        );
    }
}
