//! The walker's serial port, whose other end the VMM connects to a socket of ours.

use super::wish::CHANNEL;
use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::walker::{Order, Word};
use pagemend_lab_protocol::{decode, encode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// What came of listening.
#[derive(Debug)]
pub(crate) enum Heard {
    /// The walker said something.
    Word(Word),
    /// The VMM has closed the port: it is over.
    End,
    /// Nothing, for as long as there was time.
    Silence,
}

/// The line.
pub(crate) struct Line(BufReader<UnixStream>);

impl Line {
    /// Makes the socket that a VMM is to connect to.
    pub(crate) fn listen(directory: &Path) -> Result<UnixListener> {
        let path = directory.join(CHANNEL);
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(&path).context("cannot make a socket for the walker's line")
    }

    /// Waits until the VMM has connected, or has ended.
    pub(crate) fn accept(listener: UnixListener, vmm: &Child, deadline: Instant) -> Result<Self> {
        let pid = Pid::from_child(vmm);
        let end = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch a VMM")?;
        let mut events = [
            PollFd::new(&listener, PollFlags::IN),
            PollFd::new(&end, PollFlags::IN),
        ];
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("a deadline too far away")?;
        poll(&mut events, Some(&timeout)).context("cannot poll")?;
        if events[0].revents().is_empty() {
            bail!("the VMM did not connect the walker's line");
        }
        let (stream, _) = listener
            .accept()
            .context("cannot accept the walker's line")?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends an order.
    pub(crate) fn say(&mut self, order: &Order) -> Result<()> {
        let stream = self.0.get_mut();
        stream
            .write_all(encode(order).as_bytes())
            .context("the VMM is gone")
    }

    /// Waits for the walker's next word.
    pub(crate) fn hear(&mut self, deadline: Instant) -> Result<Heard> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean for ever.
            let left = left.max(Duration::from_millis(1));
            self.0.get_ref().set_read_timeout(Some(left))?;
            let mut line = Vec::new();
            match self.0.read_until(b'\n', &mut line) {
                Ok(0) => return Ok(Heard::End),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(Heard::End),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(Heard::Silence);
                }
                Err(error) => return Err(error).context("cannot read the walker's line"),
            }
            if let Some(word) = whole(&String::from_utf8_lossy(&line)) {
                return Ok(Heard::Word(word));
            }
        }
    }
}

/// The word in a line. A guest that starts again in the middle of one leaves a piece before the next, and firmware may have said something, too.
fn whole(line: &str) -> Option<Word> {
    line.rmatch_indices("{\"word\"")
        .find_map(|(start, _)| decode(&line[start..]).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_after_the_piece_of_one() {
        let word = Word::Frame { frame: 7 };
        let line = encode(&word);
        assert_eq!(whole(&line), Some(word.clone()));
        assert_eq!(whole(&format!("{}\u{fffd}{line}", &line[..9])), Some(word));
        assert_eq!(whole(&line[..9]), None);
    }
}
