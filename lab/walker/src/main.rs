//! The walker: process 1 of a guest whose memory fails under it, and the guest's only program. It owns most of the memory, checks and writes all of it over and over, and tells a scenario on the other side of a serial port what it met.

mod check;
mod console;
mod frames;
mod kernel_log;
mod memory;
mod port;
mod setup;
mod walk;

use crate::kernel_log::KernelLog;
use crate::memory::Memory;
use crate::port::Port;
use crate::walk::Walk;
use anyhow::{Context, Result};
use pagemend_lab_protocol::walker::{Order, Survey, Use, Word};
use rustix::system::{RebootCommand, reboot, uname};
use std::process::ExitCode;

fn main() -> ExitCode {
    if !rustix::process::getpid().is_init() {
        eprintln!("this is process 1 of the lab's guests; `cargo xtask lab 'vm-*'` runs it");
        return ExitCode::from(2);
    }
    let end = serve().unwrap_or_else(|error| {
        eprintln!("walker: {error:#}");
        RebootCommand::PowerOff
    });
    let _ = reboot(end);
    // Where there is no switching off, a process 1 that ends is a kernel panic, which is noticed.
    ExitCode::FAILURE
}

fn serve() -> Result<RebootCommand> {
    let troubles = setup::machine();
    let mut log = KernelLog::open()?;
    let mut port = Port::open()?;
    let cpus = std::thread::available_parallelism().context("cannot count processors")?;
    let memory = Memory::own(cpus.get())?;
    check::install()?;
    let mut walk = Walk::start(memory)?;
    port.say(&Word::Hello {
        kernel: uname().release().to_string_lossy().into_owned(),
        vendor: setup::vendor()?,
        cpus: u32::try_from(cpus.get()).context("so many processors")?,
        owned: walk.memory().owned() as u64,
        troubles,
    })?;
    loop {
        let answer = match port.hear()? {
            Order::Restart => return Ok(RebootCommand::Restart),
            Order::PowerOff => return Ok(RebootCommand::PowerOff),
            order => answer(&order, &mut walk, &mut log),
        };
        port.say(&answer.unwrap_or_else(|error| Word::Done {
            error: Some(format!("{error:#}")),
        }))?;
    }
}

fn answer(order: &Order, walk: &mut Walk, log: &mut KernelLog) -> Result<Word> {
    Ok(match order {
        Order::Survey => {
            let seen = walk.survey();
            Word::Survey(Survey {
                hardware_corrupted_kb: setup::hardware_corrupted()?,
                failures: log.failed_frames()?,
                ..seen
            })
        }
        Order::Locate { what, number } => Word::Frame {
            frame: match what {
                Use::Free => frames::free(*number)?,
                Use::KernelText => frames::kernel_text(*number)?,
                Use::Slab => frames::slab(*number)?,
                owned => walk.memory().locate(*owned, *number)?,
            },
        },
        Order::Flags { frame } => Word::Flags {
            flags: frames::flags(*frame)?,
        },
        Order::Await { text, lines } => Word::Log {
            lines: log.lines_with(text, *lines)?,
        },
        Order::Hold => {
            walk.hold();
            Word::Done { error: None }
        }
        Order::Go { together } => {
            walk.go(together)?;
            Word::Done { error: None }
        }
        Order::Sync => {
            walk.memory().sync()?;
            Word::Done { error: None }
        }
        Order::Restart | Order::PowerOff => unreachable!("these end the machine"),
    })
}
