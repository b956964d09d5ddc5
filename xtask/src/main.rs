//! `cargo xtask`: the project's own tasks.

mod lab;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Real memory failures on real kernels, in emulated machines
    Lab(lab::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Lab(arguments) => lab::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
