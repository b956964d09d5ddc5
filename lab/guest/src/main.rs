//! The lab's init program. It is the only program in its machine: as process 1 it sets the machine up and talks to the host; started again with `run NAME` it is one scenario, so that a scenario may die; with `list`, on any machine, it says what it can do.

mod arch;
mod attached;
mod backing;
mod channel;
mod crowd;
mod disk;
mod early_kill;
mod faults;
mod file_system;
mod gate;
mod guest;
mod heartbeat;
mod init;
mod inject;
mod kernel_log;
mod machine;
mod memory;
mod pages;
mod pattern;
mod persistent;
mod privileged;
mod raw_list;
mod reader;
mod registry;
mod sabotage;
mod salvage;
mod seccomp;
mod setup;
mod staging;
mod toll;
mod trial;
mod userfault;
mod vm;
mod witness;

/// The scenarios, one topic a file.
mod scenarios {
    automod::dir!(pub(crate) "src/scenarios");
}

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if rustix::process::getpid().is_init() {
        match words.split_first() {
            Some((first, rest)) if first == attached::ARGUMENT => attached::main(rest),
            _ => init::main(),
        }
    }
    match words
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["list"] => {
            for scenario in registry::all() {
                print!("{}", pagemend_lab_protocol::encode(&scenario.info));
            }
            ExitCode::SUCCESS
        }
        ["run", name] => trial::run(name),
        _ => {
            eprintln!(
                "this is the lab's init program; `list` says what it can do, and `cargo xtask lab` runs it"
            );
            ExitCode::from(2)
        }
    }
}
