//! How a run ended, for people, for programs and for scripts.

use std::io::{self, Write};
use std::process::ExitCode;

use pagemend::Totals;
use pagemend_vmm::Vm;
use serde::Serialize;

/// The name and version of the `--json` form, which docs/vmm.md describes.
const SCHEMA: &str = "pagemend.run/1";

#[derive(Serialize)]
pub(super) struct Report {
    schema: &'static str,
    end: Ending,
    reason: Option<String>,
    lost_bytes: Option<u64>,
    totals: Option<Totals>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Ending {
    /// It was switched off.
    Off,
    /// The guest could not go on.
    Crash,
    /// It was not started, or could not be steered.
    Cannot,
}

impl Ending {
    fn exit_code(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Crash => 1,
            Self::Cannot => 2,
        }
    }
}

impl Report {
    fn of(end: Ending, reason: Option<String>, vm: Option<&Vm>) -> Self {
        Self {
            schema: SCHEMA,
            end,
            reason,
            lost_bytes: vm.map(|vm| vm.pagemend().with_ledger(|ledger| ledger.lost_bytes())),
            totals: vm.map(|vm| vm.pagemend().totals()),
        }
    }

    pub(super) fn off(vm: &Vm) -> Self {
        Self::of(Ending::Off, None, Some(vm))
    }

    pub(super) fn crash(reason: String, vm: &Vm) -> Self {
        Self::of(Ending::Crash, Some(reason), Some(vm))
    }

    pub(super) fn cannot(reason: String) -> Self {
        Self::of(Ending::Cannot, Some(reason), None)
    }

    pub(super) fn print(&self, json: bool) -> io::Result<ExitCode> {
        if json {
            let mut out = io::stdout().lock();
            // The guest's last line may have had no end.
            let line = serde_json::to_string(self)?;
            writeln!(out, "{line}")?;
        } else if let Some(reason) = &self.reason {
            let what = match self.end {
                Ending::Crash => "the guest could not go on: ",
                _ => "",
            };
            anstream::eprintln!("pagemend run: {what}{reason}");
        }
        Ok(ExitCode::from(self.end.exit_code()))
    }
}
