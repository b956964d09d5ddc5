//! The line to the host: a serial port of its own, raw, read and written without buffers so that process 1 and the scenario can use it by turns.

use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::{Command, Event, decode, encode};
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{Read, Write};

/// Where the channel is, on the kernel command line: `pagemend.channel=/dev/ttyS1`.
pub(crate) const PARAMETER: &str = "pagemend.channel=";

/// The line to the host.
pub(crate) struct Channel {
    port: File,
}

impl Channel {
    /// Opens the port that the kernel command line names.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { port: port()? })
    }

    /// Sends a message, whole.
    pub(crate) fn send(&mut self, event: &Event) -> Result<()> {
        self.port
            .write_all(encode(event).as_bytes())
            .context("cannot write to the host")
    }

    /// Waits for the host's next message.
    pub(crate) fn receive(&mut self) -> Result<Command> {
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            if self
                .port
                .read(&mut byte)
                .context("cannot read from the host")?
                == 0
            {
                bail!("the host closed the channel");
            }
            line.push(byte[0]);
        }
        let line = String::from_utf8(line).context("the host sent something that is not text")?;
        decode(&line).with_context(|| format!("cannot understand the host's `{}`", line.trim_end()))
    }
}

/// The port that the kernel command line names, raw.
pub(crate) fn port() -> Result<File> {
    let line = std::fs::read_to_string("/proc/cmdline").context("cannot read /proc/cmdline")?;
    let path = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix(PARAMETER))
        .with_context(|| format!("no {PARAMETER} on the kernel command line"))?;
    let port = open(
        path,
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("cannot open {path}"))?;
    if let Ok(mut settings) = tcgetattr(&port) {
        settings.make_raw();
        tcsetattr(&port, OptionalActions::Now, &settings).context("cannot make it raw")?;
    }
    Ok(port.into())
}
