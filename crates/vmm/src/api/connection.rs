//! One connection, whatever its other end does: send nothing, send forever, go away, never read.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};

use super::head::{self, Head};
use super::refusal::Refusal;
use super::response::Response;
use super::routes::{self, Answer};
use super::{MAX_BODY, events};
use crate::Vm;

/// How long a connection may be open without a request.
const IDLE: Duration = Duration::from_secs(60);
/// How long a request may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is still read, and for how long, of what the other end sends after it was refused: it
/// would otherwise be told of a broken connection rather than why.
const LEFTOVERS: u64 = 1 << 20;
const LEFTOVERS_PATIENCE: Duration = Duration::from_millis(500);

/// A stream whose reads and writes end at a time.
struct Until<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Until<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match left.is_zero() {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(Some(left)),
        }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        let mut stream = self.stream;
        stream.read(bytes)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        let mut stream = self.stream;
        stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream to which one answer or one line of an answer can be written.
pub(super) fn patient(stream: &UnixStream) -> impl Write {
    within(stream, PATIENCE)
}

fn within(stream: &UnixStream, time: Duration) -> Until<'_> {
    Until {
        stream,
        deadline: Instant::now() + time,
    }
}

/// Why no request came.
enum Silence {
    /// The other end is gone, or has nothing to say.
    Gone,
    /// What it says is not a request.
    Refused(Refusal),
}

impl From<io::Error> for Silence {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<Refusal> for Silence {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// A connection.
struct Connection<'a> {
    stream: &'a UnixStream,
    /// What has been read and is not yet part of a request.
    read: Vec<u8>,
}

/// Answers requests until either end has had enough.
pub(super) fn serve(stream: &UnixStream, vm: &Vm, ending: &dyn Fn() -> bool) {
    let mut connection = Connection {
        stream,
        read: vec![],
    };
    loop {
        let (response, keeps) = match connection.next() {
            Ok((head, body)) => match routes::answer(&head, &body, vm) {
                Answer::Whole(response) => (response, head.keeps),
                Answer::Events => return events::stream(stream, vm, head.chunks, ending),
            },
            Err(Silence::Refused(refusal)) => (Response::from(refusal), false),
            Err(Silence::Gone) => return,
        };
        let keeps = keeps && !ending();
        if response.write(patient(stream), !keeps).is_err() {
            return;
        }
        if !keeps {
            return leave(stream);
        }
    }
}

/// Turns a connection away.
pub(super) fn turn_away(stream: &UnixStream) {
    let mut bytes = vec![];
    if Response::from(Refusal::TooMany)
        .write(&mut bytes, true)
        .is_ok()
    {
        // Nobody waits for one who is turned away: what does not fit at once is not said.
        let _ = send(stream, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl Connection<'_> {
    fn next(&mut self) -> Result<(Head, Vec<u8>), Silence> {
        if self.read.is_empty() {
            self.more(&mut within(self.stream, IDLE))?;
        }
        let mut stream = within(self.stream, PATIENCE);
        let (head, len) = loop {
            match head::parse(&self.read)? {
                Some(complete) => break complete,
                None => self.more_of_it(&mut stream)?,
            }
        };
        self.read.drain(..len);
        if head.asks_leave && self.read.len() < head.length {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        while self.read.len() < head.length {
            self.more_of_it(&mut stream)?;
        }
        let body = self.read.drain(..head.length).collect();
        Ok((head, body))
    }

    /// More bytes of a request that has begun.
    fn more_of_it(&mut self, stream: &mut Until<'_>) -> Result<(), Silence> {
        self.more(stream).map_err(|error| match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Silence::Refused(Refusal::TooSlow),
            _ => Silence::Gone,
        })
    }

    fn more(&mut self, stream: &mut Until<'_>) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let len = loop {
            match stream.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                other => break other?,
            }
        };
        self.read.extend_from_slice(&bytes[..len]);
        debug_assert!(self.read.len() <= MAX_BODY + super::MAX_HEAD + bytes.len());
        Ok(())
    }
}

/// Ends a connection such that the other end can read what it was told last.
fn leave(stream: &UnixStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let leftovers = within(stream, LEFTOVERS_PATIENCE);
    let _ = io::copy(&mut leftovers.take(LEFTOVERS), &mut io::sink());
}
