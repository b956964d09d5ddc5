//! What becomes of a frame that was made to fail, as the machine's events tell it.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use pagemend::{Gpa, GpaRange};
use pagemend_vmm::api::{Client, ClientError};
use serde::Serialize;
use serde_json::Value;

use crate::size::Size;

/// Events of a machine, as they come.
pub(super) struct Watch(Receiver<Value>);

/// How the fault ended.
#[derive(Serialize)]
pub(super) struct Outcome {
    /// Bytes that were lost with it.
    lost_bytes: u64,
    /// The engine's event `done`, as docs/events.md describes it.
    done: Value,
}

impl Watch {
    /// From now on nothing is missed.
    pub(super) fn start(client: &Client) -> Result<Self, ClientError> {
        let events = client.events()?;
        let (sender, receiver) = channel();
        // Ends with the machine, or with this program.
        thread::spawn(move || {
            for event in events.map_while(Result::ok) {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// What became of the frame at `gpa`, or none where that takes longer than `limit`.
    pub(super) fn outcome(self, gpa: Gpa, limit: Duration) -> Option<Outcome> {
        let deadline = Instant::now() + limit;
        let mut lost_bytes = 0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut event = self.0.recv_timeout(left).ok()?;
            let detail = event["detail"].take();
            let page = serde_json::from_value::<GpaRange>(detail["page"].clone());
            if !page.is_ok_and(|page| page.contains(gpa)) {
                continue;
            }
            match detail["step"].as_str() {
                Some("record") => lost_bytes += detail["lost_bytes"].as_u64().unwrap_or(0),
                Some("done") => {
                    return Some(Outcome {
                        lost_bytes,
                        done: detail,
                    });
                }
                _ => {}
            }
        }
    }
}

impl Outcome {
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let action = self.done["action"]
            .as_str()
            .unwrap_or("none: it was in order");
        let micros = self.done["total_ns"].as_u64().unwrap_or(0) / 1000;
        writeln!(out, "Became     {action}, in {micros} µs")?;
        writeln!(out, "Lost       {}", Size(self.lost_bytes))?;
        let reasons = self.done["reasons"].as_array();
        for reason in reasons.into_iter().flatten() {
            writeln!(out, "Because    {reason}")?;
        }
        Ok(())
    }
}
