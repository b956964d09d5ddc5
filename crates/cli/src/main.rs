//! The `pagemend` command.

mod decode;
mod demo;
mod doctor;
mod interrupt;
mod layout;
mod pages;
mod pool;
mod progress;
mod size;

// What runs virtual machines: the reference VMM's are x86-64.
#[cfg(target_arch = "x86_64")]
mod bench;
#[cfg(target_arch = "x86_64")]
mod inject;
#[cfg(target_arch = "x86_64")]
mod run;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Memory-failure recovery for virtual machines on huge pages.
#[derive(Debug, Parser)]
#[command(name = "pagemend", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(target_arch = "x86_64")]
    Bench(bench::Bench),
    Decode(decode::Decode),
    Demo(demo::Demo),
    Doctor(doctor::Doctor),
    #[cfg(target_arch = "x86_64")]
    Run(run::Run),
    #[cfg(target_arch = "x86_64")]
    Inject(inject::Inject),
    #[command(hide = true)]
    KernelDefault(demo::Measure),
    #[cfg(target_arch = "x86_64")]
    /// Puts the terminal back when the process that started this is gone.
    #[command(hide = true, name = run::terminal::WATCH)]
    WatchTerminal,
}

/// The exit code for arguments that make no sense, which is clap's, and for output that nobody
/// takes: either way the command's question has no answer.
const NO_ANSWER: u8 = 2;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        #[cfg(target_arch = "x86_64")]
        Command::Bench(bench) => bench.run(),
        Command::Decode(decode) => decode.run(),
        Command::Demo(demo) => demo.run(),
        Command::Doctor(doctor) => doctor.run(),
        #[cfg(target_arch = "x86_64")]
        Command::Run(run) => run.run(),
        #[cfg(target_arch = "x86_64")]
        Command::Inject(inject) => inject.run(),
        #[cfg(target_arch = "x86_64")]
        Command::WatchTerminal => run::terminal::watch().map(|()| ExitCode::SUCCESS),
        Command::KernelDefault(measure) => measure.run(),
    };
    match outcome {
        Ok(code) => code,
        // A reader such as `head` has what it wanted and needs no message.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::from(NO_ANSWER),
        Err(error) => {
            anstream::eprintln!("pagemend: the output cannot be written: {error}");
            ExitCode::from(NO_ANSWER)
        }
    }
}

/// The error with all that led to it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
