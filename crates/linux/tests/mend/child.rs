//! Tests that end their process, or change what all its threads share, run again in one of their
//! own.

use std::env;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output, Stdio};

use pagemend_core::address::PageSize;

use crate::guest::{need_pool, turn};

const MARK: &str = "PAGEMEND_TEST_ALONE";

/// Whether this is the process of one test alone.
pub(crate) fn alone() -> bool {
    env::var_os(MARK).is_some()
}

/// The command that runs the test `name` alone.
pub(crate) fn command(name: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    command
}

/// Runs the test `name` alone.
pub(crate) fn run(name: &str) -> Output {
    finish(name, &mut command(name))
}

/// Runs what [`command`] has made.
pub(crate) fn finish(name: &str, command: &mut Command) -> Output {
    // The pools are the machine's: two processes at a time may need more than there is.
    let _turn = turn();
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("running 1 test"), "no test is called {name}");
    output
}

/// Runs `body` in a process of its own: `name` is the test that calls this.
pub(crate) fn passes(name: &str, body: impl FnOnce()) {
    if alone() {
        return body();
    }
    let output = run(name);
    assert!(output.status.success(), "{}", all_of(&output));
}

/// The same, in a process without privileges, for which 16 MiB are in the pool; not at all where this
/// one has none itself.
pub(crate) fn passes_as_nobody(name: &str, body: impl FnOnce()) {
    const NOBODY: u32 = 65534;
    if alone() {
        return body();
    }
    // SAFETY: the call takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: only root can become nobody");
        return;
    }
    {
        let _turn = turn();
        need_pool(PageSize::SIZE_2M, 8);
    }
    let output = finish(name, command(name).uid(NOBODY).gid(NOBODY));
    assert!(output.status.success(), "{}", all_of(&output));
}

/// Runs `body` in a process of its own, which SIGBUS has to end. Gives what pagemend said.
pub(crate) fn dies(name: &str, body: impl FnOnce()) -> Option<Vec<String>> {
    if alone() {
        body();
        unreachable!("the process should have ended");
    }
    let output = run(name);
    let signal = output.status.signal();
    assert_eq!(signal, Some(libc::SIGBUS), "{}", all_of(&output));
    Some(lines(&output))
}

/// The lines of pagemend's own on stderr.
fn lines(output: &Output) -> Vec<String> {
    let said = String::from_utf8_lossy(&output.stderr);
    let ours = said.lines().filter(|line| line.contains("pagemend: "));
    ours.map(str::to_owned).collect()
}

fn all_of(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|s| String::from_utf8_lossy(s));
    format!("{}\n{out}\n{err}", output.status)
}
