//! What has gone wrong since boot.

use super::super::{Finding, Group, Host, Level, NodeCounters};

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let nodes = host.files.counters.nodes.iter().map(node);
    std::iter::once(hardware_corrupted(host))
        .chain(nodes)
        .collect()
}

fn finding(
    id: &'static str,
    title: impl Into<String>,
    found: impl Into<String>,
    level: Level,
    means: &str,
) -> Finding {
    Finding::new(Group::Counters, id, title, found, level, means)
}

fn hardware_corrupted(host: &Host) -> Finding {
    let id = "counters.hardware_corrupted";
    let title = "HardwareCorrupted";
    match host.files.counters.hardware_corrupted {
        Some(0) => finding(
            id,
            title,
            "0 KiB",
            Level::Good,
            "No memory has been taken out of use.",
        ),
        Some(bytes) => finding(
            id,
            title,
            format!("{} KiB", bytes >> 10),
            Level::Note,
            "So much memory has been taken out of use, counted by what failed and not by the huge \
             pages around it. Memory that has failed once is more likely to fail again.",
        )
        .advise("`ras-mc-ctl --errors` shows which DIMM, where rasdaemon has recorded it."),
        None => finding(
            id,
            title,
            "not counted",
            Level::Note,
            "A kernel without memory failure does not count what it does not handle.",
        ),
    }
}

fn node(counters: &NodeCounters) -> Finding {
    let found = format!(
        "{} in all: {} recovered, {} delayed, {} ignored, {} failed",
        counters.total, counters.recovered, counters.delayed, counters.ignored, counters.failed
    );
    let (level, means) = if counters.total == 0 {
        (Level::Good, "No memory failure on this node.")
    } else if counters.failed + counters.ignored == 0 {
        (
            Level::Note,
            "Every failed page of this node has been taken out of use, or will be when touched.",
        )
    } else {
        (
            Level::Limits,
            "Some failed pages are still in use by the kernel itself or in a state it does not \
             handle: the next touch can stop the machine.",
        )
    };
    let title = format!("Memory failures of node {}", counters.node);
    let finding = finding("counters.node", title, found, level, means);
    if level == Level::Limits {
        finding.advise("Move the guests away and replace the DIMM.")
    } else {
        finding
    }
}
