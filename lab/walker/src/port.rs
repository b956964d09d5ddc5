//! Whom the walker talks to: a scenario, through the serial port that the kernel command line names, or a person at the console, where it names none.

use crate::console;
use anyhow::{Context, Result};
use pagemend_lab_protocol::walker::{Order, Word};
use pagemend_lab_protocol::{decode, encode};
use rustix::fs::{Mode, OFlags, open};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};

/// Where the port is, on the kernel command line.
const PARAMETER: &str = "walker.port=";

/// Whom the walker talks to.
pub(crate) enum Port {
    Scenario(BufReader<File>),
    Person,
}

impl Port {
    /// Opens the line to whom there is.
    pub(crate) fn open() -> Result<Self> {
        let line = fs::read_to_string("/proc/cmdline").context("cannot read /proc/cmdline")?;
        let mut words = line.split_whitespace();
        let Some(path) = words.find_map(|word| word.strip_prefix(PARAMETER)) else {
            return Ok(Self::Person);
        };
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let port =
            open(path, flags, Mode::empty()).with_context(|| format!("cannot open {path}"))?;
        let mut settings = tcgetattr(&port).with_context(|| format!("{path} is no terminal"))?;
        settings.make_raw();
        tcsetattr(&port, OptionalActions::Now, &settings).context("cannot make the port raw")?;
        Ok(Self::Scenario(BufReader::new(port.into())))
    }

    /// Says something, whole.
    pub(crate) fn say(&mut self, word: &Word) -> Result<()> {
        let Self::Scenario(port) = self else {
            return console::say(word);
        };
        let line = encode(word);
        let port = port.get_mut();
        port.write_all(line.as_bytes())
            .context("cannot write to the port")
    }

    /// Waits for the next order.
    pub(crate) fn hear(&mut self) -> Result<Order> {
        let Self::Scenario(port) = self else {
            return console::hear();
        };
        let mut line = String::new();
        port.read_line(&mut line)
            .context("cannot read from the port")?;
        decode(&line).with_context(|| format!("cannot understand `{}`", line.trim_end()))
    }
}
