//! What pagemend's VMM reports as it happens, for scenarios in which the order of things matters.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// The events from when it was asked for.
pub(crate) struct Events {
    stream: BufReader<UnixStream>,
    deadline: Instant,
    /// Those that were heard, in order.
    pub(crate) heard: Vec<Value>,
}

impl Events {
    /// Begins to listen; when this returns, nothing that happens is missed.
    pub(super) fn follow(socket: &Path, deadline: Instant) -> Result<Self> {
        let mut stream = UnixStream::connect(socket).context("cannot reach the VMM's API")?;
        stream
            .write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: vm\r\n\r\n")
            .context("cannot ask the VMM for its events")?;
        let mut events = Self {
            stream: BufReader::new(stream),
            deadline,
            heard: Vec::new(),
        };
        // The head of the answer, which comes when the VMM has begun to collect.
        let status = events.line()?;
        if !status.starts_with("HTTP/1.1 200") {
            bail!("the VMM refuses to tell its events: {status}");
        }
        while !events.line()?.is_empty() {}
        Ok(events)
    }

    /// Listens up to the first event that is meant, and gives it.
    pub(crate) fn until(&mut self, meant: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let line = self.line()?;
            // Between events stand the sizes of the answer's chunks.
            if !line.starts_with('{') {
                continue;
            }
            let event: Value = serde_json::from_str(&line).context("an event is no JSON")?;
            self.heard.push(event.clone());
            if meant(&event) {
                return Ok(event);
            }
        }
    }

    /// Those of this name that were heard.
    pub(crate) fn of(&self, name: &'static str) -> impl Iterator<Item = &Value> {
        self.heard.iter().filter(move |event| is(event, name))
    }

    fn line(&mut self) -> Result<String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("what is waited for does not happen: {:?}", self.heard);
        }
        self.stream.get_ref().set_read_timeout(Some(left))?;
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        match read.with_context(|| format!("after the events {:?}", self.heard))? {
            0 => bail!("the VMM tells no more events after {:?}", self.heard),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}

/// Whether it is the event of this name.
pub(crate) fn is(event: &Value, name: &str) -> bool {
    event["event"] == name
}

/// The frames that a record names.
pub(crate) fn frames(event: &Value) -> Vec<u64> {
    let gpas = event["gpas"].as_array().into_iter().flatten();
    gpas.filter_map(Value::as_u64)
        .map(|gpa| gpa / 4096)
        .collect()
}
