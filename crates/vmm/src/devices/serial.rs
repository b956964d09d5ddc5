//! A 16550A serial port whose interrupts go through an eventfd, and whose output goes where the
//! machine's owner wants it.

use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The first port of each, how many ports each has, and its interrupt.
pub(crate) const COM1: u16 = 0x3f8;
pub(crate) const COM1_IRQ: u32 = 4;
pub(crate) const COM2: u16 = 0x2f8;
pub(crate) const COM2_IRQ: u32 = 3;
pub(crate) const PORTS: u16 = 8;

/// The serial port's interrupt line.
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Wakes whoever waits for room: the guest has read what was there for it.
#[derive(Default)]
struct Room(Condvar);

struct Events(std::sync::Arc<Room>);

impl SerialEvents for Events {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.0.0.notify_all();
    }
}

type Output = Box<dyn Write + Send>;

/// A serial port that any vCPU may use, and a thread may feed.
pub(crate) struct SerialPort {
    device: Mutex<Serial<Line, Events, Output>>,
    room: std::sync::Arc<Room>,
    interrupt: EventFd,
}

impl SerialPort {
    /// A port whose output goes to `output`.
    pub(crate) fn new(output: Output) -> io::Result<Self> {
        let interrupt = EventFd::new(EFD_NONBLOCK)?;
        let room = std::sync::Arc::<Room>::default();
        let line = Line(interrupt.try_clone()?);
        let events = Events(std::sync::Arc::clone(&room));
        Ok(Self {
            device: Mutex::new(Serial::with_events(line, events, output)),
            room,
            interrupt,
        })
    }

    /// What KVM is to take the interrupt from.
    pub(crate) fn interrupt(&self) -> &EventFd {
        &self.interrupt
    }

    fn device(&self) -> MutexGuard<'_, Serial<Line, Events, Output>> {
        // A panic in an output would leave the registers as they were.
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self, offset: u8) -> u8 {
        self.device().read(offset)
    }

    pub(super) fn write(&self, offset: u8, value: u8) {
        if let Err(error) = self.device().write(offset, value) {
            // The guest's byte is gone: its owner took the other end away.
            tracing::debug!(%error, "a serial port's output was lost");
        }
    }

    /// Has the guest read `input`; waits as long as it has not read what was there before.
    pub(crate) fn feed(&self, mut input: &[u8]) -> io::Result<()> {
        let mut device = self.device();
        while !input.is_empty() {
            while device.fifo_capacity() == 0 {
                device = self
                    .room
                    .0
                    .wait(device)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let taken = input.len().min(device.fifo_capacity());
            device
                .enqueue_raw_bytes(&input[..taken])
                .map_err(|error| io::Error::other(error.to_string()))?;
            input = &input[taken..];
        }
        Ok(())
    }
}
