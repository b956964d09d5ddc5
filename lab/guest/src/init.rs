//! Process 1: sets the machine up, then runs what the host says, one scenario at a time, each in a process of its own.

use crate::channel::Channel;
use crate::kernel_log::KernelLog;
use crate::{registry, setup, trial};
use anyhow::{Context, Result};
use pagemend_lab_protocol::{Command, Event};
use rustix::system::{RebootCommand, reboot, uname};
use std::os::unix::process::ExitStatusExt;
use std::process;

/// Never returns: a process 1 that ends is a kernel panic.
pub(crate) fn main() -> ! {
    if let Err(error) = serve() {
        eprintln!("lab: {error:#}");
    }
    // Whatever happened, the host must not wait for its time limit.
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

fn serve() -> Result<()> {
    let troubles = setup::machine();
    let mut channel = Channel::open()?;
    let system = uname();
    channel.send(&Event::Hello {
        kernel: system.release().to_string_lossy().into_owned(),
        arch: system.machine().to_string_lossy().into_owned(),
        troubles,
    })?;
    loop {
        match channel.receive()? {
            Command::Run { scenario } => {
                let mut log = KernelLog::from_now()?;
                let died = run(&scenario, &mut channel)?;
                channel.send(&Event::Ended {
                    died,
                    kernel_log: log.lines(),
                })?;
            }
            Command::PowerOff => return Ok(()),
            Command::Done { .. } => {}
        }
    }
}

/// Runs one scenario to its end and says how it died, if it did.
fn run(name: &str, channel: &mut Channel) -> Result<Option<String>> {
    let Some(scenario) = registry::all().into_iter().find(|s| s.info.name == name) else {
        return Ok(Some("there is no such scenario in this image".into()));
    };
    if let Err(error) = setup::pools(&scenario.info.needs) {
        channel.send(&trial::given_up(&error))?;
        return Ok(None);
    }
    let status = process::Command::new("/init")
        .args(["run", name])
        .status()
        .context("cannot start /init again")?;
    Ok(match (status.success(), status.signal()) {
        (true, _) => None,
        (false, Some(signal)) => Some(format!("killed by signal {signal}")),
        (false, None) => Some(format!("ended with {status}")),
    })
}
