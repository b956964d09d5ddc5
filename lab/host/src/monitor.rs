//! What only the hypervisor can do: QEMU's monitor, spoken to in JSON.

use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::MachineCheck;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A conversation with QEMU's monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Takes up the conversation on a stream that QEMU has the other end of.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        // QEMU answers at once or not at all.
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .context("cannot limit the monitor's time")?;
        let mut monitor = Self {
            stream: BufReader::new(stream),
        };
        monitor.line()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Raises a machine check in the guest.
    pub(crate) fn raise(&mut self, check: &MachineCheck) -> Result<()> {
        /// Any bank above those that Linux treats as a quirk; QEMU's own injections use 9.
        const BANK: u32 = 9;
        let line = format!(
            "mce {} {} {BANK} {:#x} {:#x} {:#x} {:#x}",
            if check.broadcast { "-b" } else { "" },
            check.cpu,
            check.status,
            check.mcg_status,
            check.address,
            check.misc,
        );
        let said = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        match said.as_str() {
            None | Some("") => Ok(()),
            Some(text) => bail!("QEMU's monitor says: {}", text.trim()),
        }
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let message = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{message}").context("cannot write to QEMU's monitor")?;
        loop {
            let mut answer = self.line()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU's monitor refuses {command}: {error}");
            }
            // Anything else is news that nobody asked for.
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream
            .read_line(&mut line)
            .context("cannot read from QEMU's monitor")?;
        serde_json::from_str(&line)
            .with_context(|| format!("cannot understand QEMU's monitor: `{}`", line.trim_end()))
    }
}
