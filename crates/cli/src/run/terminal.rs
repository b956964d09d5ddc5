//! The terminal while it is the guest's console: every key goes to the guest, and whatever becomes
//! of this process, the terminal is put back.
//!
//! A process cannot do the last by itself: it may be killed. So a child watches it, that does
//! nothing but wait for its end.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use rustix::stdio::{stdin, stdout};
use rustix::termios::{OptionalActions, OutputModes, Termios, isatty, tcgetattr, tcsetattr};
use vmm_sys_util::signal::block_signal;

/// The hidden command that is the child.
pub(crate) const WATCH: &str = "watch-terminal";

/// A terminal that passes every key on, until this is dropped.
pub(super) struct Raw {
    before: Termios,
    child: Child,
    /// To the child.
    line: UnixStream,
}

impl Raw {
    /// Takes the terminal that stdin is, if it is one.
    pub(super) fn enter() -> io::Result<Option<Self>> {
        if !isatty(stdin()) {
            return Ok(None);
        }
        let before = tcgetattr(stdin())?;
        let (line, its_line) = UnixStream::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg(WATCH)
            .stdin(OwnedFd::from(its_line))
            .stdout(stdin().as_fd().try_clone_to_owned()?)
            .spawn()?;
        let raw = Self {
            before,
            child,
            line,
        };
        // It has seen the terminal as it is.
        (&raw.line).read_exact(&mut [0])?;
        let mut changed = raw.before.clone();
        changed.make_raw();
        // Our own lines, and those of a guest without a terminal driver, start at the left.
        changed.output_modes |= OutputModes::OPOST;
        tcsetattr(stdin(), OptionalActions::Now, &changed)?;
        Ok(Some(raw))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // It fails only where the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &self.before);
        // The child has nothing to do any more, and must not come after whoever is next.
        let _ = self.line.write_all(b"!");
        let _ = self.line.shutdown(Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The child: stdin is the line to its parent, stdout the terminal.
pub(crate) fn watch() -> io::Result<()> {
    // What ends its parent must not end it, and it may be in the background by then.
    for signal in [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGTTOU,
    ] {
        block_signal(signal).map_err(|error| io::Error::other(format!("{error:?}")))?;
    }
    let before = tcgetattr(stdout())?;
    let mut line = UnixStream::from(stdin().try_clone_to_owned()?);
    line.write_all(b".")?;
    // A byte means that all is well, and the end that nobody could send one.
    if line.read(&mut [0])? == 0 {
        tcsetattr(stdout(), OptionalActions::Now, &before)?;
    }
    Ok(())
}
