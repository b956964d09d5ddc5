//! `pagemend bench`, because what recovery costs depends on the machine: measured on the user's own,
//! always next to what it is to be compared with, in one run and in turn.

mod blackout;
mod error;
mod guard;
mod huge;
mod ledger;
mod machine;
mod memcycler;
mod output;
mod pieces;
mod plot;
mod room;
mod salvage;
mod spread;
mod table;
mod warm;

use std::io;
use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Measures on this machine what memory-failure recovery costs.
///
/// Each benchmark has what it is compared with in the same run, in turn with it, so that what else
/// the machine does hits both alike: trust its ratios more than its times. Pools of huge pages that
/// are too small are grown where that is allowed, and shrunk again at the end.
///
/// Exits with 0 when it has measured, with 2 when it could not, and with 130 when it was
/// interrupted.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Blackout(blackout::Blackout),
    Memcycler(memcycler::Memcycler),
    Salvage(salvage::Salvage),
    Ledger(ledger::Ledger),
    Guard(guard::Guard),
}

impl Bench {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        match self.what {
            What::Blackout(bench) => output::conclude(&bench.output, || bench.measure()),
            What::Memcycler(bench) => output::conclude(&bench.output, || bench.measure()),
            What::Salvage(bench) => output::conclude(&bench.output, || bench.measure()),
            What::Ledger(bench) => output::conclude(&bench.output, || bench.measure()),
            What::Guard(bench) => output::conclude(&bench.output, || bench.measure()),
        }
    }
}
