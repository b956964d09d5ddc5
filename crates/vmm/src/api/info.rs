//! What the machine says of itself.

use pagemend::{FRAME_SIZE, Filling, GpaRange, Heal, Policy, Progress, Totals};
use pagemend_guest::route::{Capability, Counts};
use serde::Serialize;

use crate::{CpuModel, Phase, Vm};

/// Name and version of the form of `vm.info`.
pub const INFO_SCHEMA: &str = "pagemend.vm-info/1";

/// The answer to `ping`.
#[derive(Serialize)]
pub(super) struct Pong {
    version: &'static str,
    pid: u32,
}

impl Pong {
    pub(super) fn new() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
        }
    }
}

/// The answer to `vm.info`.
#[derive(Serialize)]
pub(super) struct Info {
    schema: &'static str,
    phase: Phase,
    vcpus: u8,
    cpu: CpuModel,
    memory: Memory,
    /// What was done about failures, in numbers.
    totals: Totals,
    /// What the guest can be told by, as far as it has shown.
    guest: Capability,
    /// What the guest was told, in numbers.
    told: Counts,
}

/// When huge pages are whole again.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum HealPolicy {
    Never,
    OnAck,
    Now,
}

impl From<Heal> for HealPolicy {
    fn from(heal: Heal) -> Self {
        match heal {
            Heal::Never => Self::Never,
            Heal::OnAck { .. } => Self::OnAck,
            Heal::Now => Self::Now,
        }
    }
}

#[derive(Serialize)]
struct Memory {
    bytes: u64,
    backing: String,
    page_size: u64,
    policy: Policy,
    filling: Filling,
    heal: HealPolicy,
    ranges: Vec<GpaRange>,
    lost_bytes: u64,
    /// Of what is lost, that the guest keeps off by itself.
    entrusted_bytes: u64,
    /// Of what is lost, that waits for the guest to be told of it.
    untold_bytes: u64,
    /// Pages that are being mended on demand.
    coming_back: Vec<ComingBack>,
}

/// How far a page has come.
#[derive(Serialize)]
struct ComingBack {
    page: GpaRange,
    left_bytes: u64,
}

impl From<Progress> for ComingBack {
    fn from(Progress { page, left_bytes }: Progress) -> Self {
        Self { page, left_bytes }
    }
}

impl Info {
    pub(super) fn of(vm: &Vm) -> Self {
        let config = vm.config();
        let kind = &config.memory.kind;
        Self {
            schema: INFO_SCHEMA,
            phase: vm.phase(),
            vcpus: config.vcpus,
            cpu: config.cpu,
            memory: Memory {
                bytes: config.memory.bytes,
                backing: kind.to_string(),
                page_size: kind.page_size().bytes(),
                policy: config.memory.policy,
                filling: config.memory.filling,
                heal: config.memory.heal.into(),
                ranges: vm.ram().ranges().collect(),
                lost_bytes: vm.pagemend().with_ledger(|ledger| ledger.lost_bytes()),
                entrusted_bytes: entrusted_bytes(vm),
                untold_bytes: vm.waiting().len() as u64 * FRAME_SIZE,
                coming_back: vm
                    .pagemend()
                    .progress()
                    .into_iter()
                    .map(Into::into)
                    .collect(),
            },
            totals: vm.pagemend().totals(),
            guest: vm.capability(),
            told: vm.told(),
        }
    }
}

fn entrusted_bytes(vm: &Vm) -> u64 {
    let ranges: Vec<GpaRange> = vm.ram().ranges().collect();
    vm.pagemend().with_ledger(|ledger| {
        let entrusted = ranges.iter().flat_map(|range| ledger.entrusted_in(range));
        entrusted.map(|run| run.len()).sum()
    })
}
