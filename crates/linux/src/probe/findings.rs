//! From facts to what they mean: a pure function, one module a chapter.

mod counters;
mod firmware;
mod kernel;
mod memory;
mod userfaultfd;
mod virtualization;

use super::{Finding, Group, Host, Level};

/// Everything worth saying about a host, chapter by chapter. A mend is impossible exactly if one of
/// them has [`Level::Blocks`].
pub fn findings(host: &Host) -> Vec<Finding> {
    let unreadable = host.files.unreadable.iter().map(|file| {
        Finding::new(
            Group::Probe,
            "probe.unreadable",
            &file.path,
            &file.reason,
            Level::Note,
            "What this file says is missing above.",
        )
    });
    [
        kernel::findings(host),
        memory::findings(host),
        userfaultfd::findings(host),
        virtualization::findings(host),
        firmware::findings(host),
        counters::findings(host),
    ]
    .into_iter()
    .flatten()
    .chain(unreadable)
    .collect()
}
