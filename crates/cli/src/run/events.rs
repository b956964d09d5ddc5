//! Events into a file, one JSON object a line.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use pagemend_vmm::seccomp::{self, SeccompError, Task};
use pagemend_vmm::{Vm, What};

/// How long the last events may take to be written, when the machine has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why no events are written.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventsError {
    #[error("events cannot be written to {path}", path = .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("no thread for events")]
    Thread(#[source] io::Error),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
}

/// Events on their way into a file.
pub(super) struct Log(Receiver<io::Result<()>>);

impl Log {
    /// Writes what happens to `vm` from now on.
    pub(super) fn start(path: &Path, vm: &Vm) -> Result<Self, EventsError> {
        let mut file = File::create(path).map_err(|source| EventsError::File {
            path: path.to_owned(),
            source,
        })?;
        let events = vm.events().subscribe();
        let filter = seccomp::filter(Task::Events, vm.config().seccomp)?;
        let (done, outcome) = channel();
        let write = move || -> io::Result<()> {
            filter.apply().map_err(io::Error::other)?;
            for event in events {
                let line = serde_json::to_string(&*event)?;
                file.write_all(format!("{line}\n").as_bytes())?;
                if matches!(event.what, What::Shutdown { .. }) {
                    return Ok(());
                }
            }
            Err(io::Error::other("there were more than could be written"))
        };
        thread::Builder::new()
            .name("events".to_owned())
            // Whoever waits for it may have had enough.
            .spawn(move || drop(done.send(write())))
            .map_err(EventsError::Thread)?;
        Ok(Self(outcome))
    }

    /// Waits for the last event of a machine that has ended.
    pub(super) fn finish(self) -> io::Result<()> {
        let outcome = self.0.recv_timeout(PATIENCE);
        outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
