//! Memory failures since boot, because a host that has had some is likely to have more.

use serde::Serialize;

use super::tree::Tree;

/// What the kernel has counted since boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// `HardwareCorrupted` of /proc/meminfo, in bytes: memory taken out of use.
    pub hardware_corrupted: Option<u64>,
    /// Outcomes by NUMA node. Kernel 6.3.
    pub nodes: Vec<NodeCounters>,
}

/// /sys/devices/system/node/node*/memory_failure: what became of each failed page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeCounters {
    /// Number of the NUMA node.
    pub node: u32,
    /// All memory failures.
    pub total: u64,
    /// Page out of use, nobody depends on it.
    pub recovered: u64,
    /// Page to be dealt with when it is next touched.
    pub delayed: u64,
    /// Page was in a state the kernel does not handle.
    pub ignored: u64,
    /// Page could not be taken out of use.
    pub failed: u64,
}

const MEMINFO: &str = "/proc/meminfo";

impl Counters {
    pub(super) fn read(tree: &Tree<'_>) -> Self {
        Self {
            hardware_corrupted: hardware_corrupted(tree),
            nodes: tree
                .nodes()
                .into_iter()
                .filter_map(|node| {
                    let path = format!("/sys/devices/system/node/node{node}/memory_failure");
                    let count = |file: &str| tree.number(&format!("{path}/{file}"));
                    Some(NodeCounters {
                        node,
                        total: count("total")?,
                        recovered: count("recovered")?,
                        delayed: count("delayed")?,
                        ignored: count("ignored")?,
                        failed: count("failed")?,
                    })
                })
                .collect(),
        }
    }
}

fn hardware_corrupted(tree: &Tree<'_>) -> Option<u64> {
    let meminfo = tree.text(MEMINFO)?;
    let value = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("HardwareCorrupted:"))?
        .trim();
    let kib: Option<u64> = value
        .strip_suffix(" kB")
        .and_then(|kib| kib.trim().parse().ok());
    if kib.is_none() {
        tree.complain(MEMINFO, format!("HardwareCorrupted is {value:?}"));
    }
    kib?.checked_mul(1024)
}
