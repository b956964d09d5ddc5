//! Commands that may not take for ever: a test that hangs ends with its log, not with the patience
//! of whoever waits for it.

use std::fs;
use std::io;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use wait_timeout::ChildExt;

/// Runs a command; `None` if it was not through in time, and was ended with all that it had
/// started.
pub(crate) fn run(command: &mut Command, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let ended = child.wait_timeout(limit)?;
    if ended.is_none() {
        // Not by process group: the terminal's interrupt shall reach them all.
        for process in family(child.id()) {
            if let Some(pid) = Pid::from_raw(process.cast_signed()) {
                // One that has ended meanwhile needs no signal.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        child.wait()?;
    }
    Ok(ended)
}

/// A process, its children and theirs, parents first.
fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let threads = fs::read_dir(format!("/proc/{process}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|id| id.parse::<u32>().ok()),
            );
        }
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_ends_in_time_gives_its_status() {
        let ended = run(&mut shell("exit 3"), Duration::from_secs(60)).unwrap();
        assert_eq!(ended.and_then(|status| status.code()), Some(3));
    }

    #[test]
    fn what_does_not_is_ended_with_its_children() {
        // The write end of the pipe closes when the last of the three has ended.
        let (mut read, write) = io::pipe().unwrap();
        let mut command = shell("(sleep 100; true) & sleep 100; true");
        command.stdout(write);
        let ended = run(&mut command, Duration::from_secs(1)).unwrap();
        assert_eq!(ended, None);
        drop(command);
        let started = Instant::now();
        assert_eq!(read.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert!(started.elapsed() < Duration::from_secs(50));
    }
}
