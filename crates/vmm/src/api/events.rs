//! The events as they happen, one JSON object a line.

use std::os::unix::net::UnixStream;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connection::patient;
use super::response::{end_lines, start_lines, write_line};
use crate::events::{VmEvent, What};
use crate::{Phase, Vm};

/// How long a reader that has gone away can keep its place while nothing happens.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Writes events until the machine has ended, the other end is gone or does not read.
pub(super) fn stream(stream: &UnixStream, vm: &Vm, chunks: bool, ending: &dyn Fn() -> bool) {
    let events = vm.events().subscribe();
    // Of a machine that has ended nothing more will be heard. Asked before the other end knows that
    // it is listened to: it may end the machine in the next moment.
    let over = vm.phase() == Phase::Ended;
    // Nothing that happens after the other end has read this is missed.
    if start_lines(patient(stream), chunks).is_err() {
        return;
    }
    if !over {
        loop {
            match events.recv_timeout(LOOK_AGAIN) {
                Ok(event) if write(stream, &event, chunks) => {
                    if matches!(event.what, What::Shutdown { .. }) {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) if !ending() && !is_gone(stream) => {}
                // It was cut off, because it did not read: the answer stays without an end.
                _ => return,
            }
        }
    }
    // It may be gone by now, which changes nothing.
    let _ = end_lines(patient(stream), chunks);
}

fn write(stream: &UnixStream, event: &VmEvent, chunks: bool) -> bool {
    let line = serde_json::to_string(event).expect("events are plain JSON");
    write_line(patient(stream), &line, chunks).is_ok()
}

fn is_gone(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec::default();
    let seen = poll(&mut fds, Some(&now));
    seen.is_ok() && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
