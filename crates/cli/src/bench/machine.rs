//! The machine that was measured on: a number without it says nothing.

use std::fmt;
use std::fs;
use std::thread::available_parallelism;

use serde::Serialize;

use crate::size::Size;

/// What a reader of the results has to know of it.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    /// As `/proc/cpuinfo` names it.
    processor: String,
    /// Processors that this process may use.
    processors: u64,
    /// Whether it is itself a virtual machine: its own memory may then not be mapped as it says.
    virtualized: bool,
    memory_bytes: u64,
    kernel: String,
    /// Processes that wanted a processor in the last minute, on average, before the benchmark.
    load: f64,
    /// What makes the results doubtful.
    pub(super) warnings: Vec<String>,
}

impl Machine {
    pub(super) fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let of = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or("", |(_, value)| value.trim())
        };
        let processors = available_parallelism().map_or(1, |count| count.get() as u64);
        let load = read("/proc/loadavg");
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        let load: f64 = load.unwrap_or_default();
        let memory = read("/proc/meminfo");
        let total = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"));
        let total = total.and_then(|total| total.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let mut warnings = vec![];
        if load > 0.5 * processors as f64 {
            warnings.push(format!(
                "the machine is busy (a load of {load} on {processors} processors): times will be \
                 longer than they are, and only ratios can be trusted"
            ));
        }
        if cfg!(debug_assertions) {
            warnings.push(
                "built without optimisation: run it with `cargo run --release -- bench`".to_owned(),
            );
        }
        Self {
            processor: of("model name").to_owned(),
            processors,
            virtualized: of("flags").split(' ').any(|flag| flag == "hypervisor"),
            memory_bytes: total.unwrap_or_default() << 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load,
            warnings,
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.virtualized {
            true => ", a virtual machine",
            false => "",
        };
        write!(
            f,
            "{}, {} processors, {}, Linux {}{kind}, load {}",
            self.processor,
            self.processors,
            Size(self.memory_bytes),
            self.kernel,
            self.load
        )
    }
}
