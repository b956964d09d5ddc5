//! The machine as somebody's host: instead of scenarios it runs one virtual machine, whose console is the serial port that leads to the lab's terminal, and goes when that goes.

use crate::pages::Pool;
use crate::{channel, setup};
use anyhow::{Context, Result};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::tcdrain;
use std::process::Command;

/// The first argument of a process 1 that is to do so. The others are for the VMM.
pub(crate) const ARGUMENT: &str = "vm";

/// 2 MiB pages for the guest and for what replaces those that fail.
const POOL: u64 = 320;

/// Never returns: a process 1 that ends is a kernel panic.
pub(crate) fn main(arguments: &[String]) -> ! {
    if let Err(error) = run(arguments) {
        eprintln!("lab: {error:#}");
    }
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

fn run(arguments: &[String]) -> Result<()> {
    for trouble in setup::machine() {
        eprintln!("lab: {trouble}");
    }
    Pool::two_mib().resize(POOL);
    let terminal = channel::port()?;
    let mut vmm = Command::new("/vm/vmm");
    vmm.args(["run", "--kernel", "/vm/kernel", "--initrd", "/vm/initrd"])
        .args([
            "--cmdline",
            "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off",
        ])
        .args(arguments)
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal.try_clone()?);
    vmm.status().context("cannot start the VMM")?;
    // What was said last goes out before the machine does.
    tcdrain(&terminal).context("cannot wait for the terminal")
}
