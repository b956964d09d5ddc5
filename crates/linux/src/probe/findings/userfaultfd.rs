//! Whether a mend can show the guest its new memory page by page and keep it off the lost frames.

use super::super::{Finding, Group, Host, KernelFaults, Level};
use crate::abi::{UFFD_FEATURE_MINOR_HUGETLBFS, UFFD_FEATURE_MINOR_SHMEM, UFFD_FEATURE_POISON};

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    match unavailable(host) {
        Some(finding) => vec![finding],
        None => vec![access(host), kernel_faults(host), poison(host), minor(host)],
    }
}

fn finding(
    id: &'static str,
    title: &str,
    found: impl Into<String>,
    level: Level,
    means: &str,
) -> Finding {
    Finding::new(Group::Userfaultfd, id, title, found, level, means)
}

const ACCESS: &str = "userfaultfd.access";
const ACCESS_TITLE: &str = "Access";

/// Without a descriptor there is nothing more to say than why.
fn unavailable(host: &Host) -> Option<Finding> {
    let userfaultfd = &host.calls.userfaultfd;
    if userfaultfd.features.is_some() {
        return None;
    }
    let ways = [
        userfaultfd.device,
        userfaultfd.syscall,
        userfaultfd.syscall_user_mode,
    ];
    let mut refusals: Vec<_> = ways
        .iter()
        .filter_map(|way| Some(way.error()?.to_string()))
        .collect();
    refusals.dedup();
    let found = if refusals.is_empty() {
        "descriptors that refuse UFFDIO_API".to_owned()
    } else {
        refusals.join("; ")
    };
    Some(
        finding(
            ACCESS,
            ACCESS_TITLE,
            found,
            Level::Blocks,
            "Lost frames cannot be marked: whoever reads one would get bytes that were never \
             written.",
        )
        .advise(
            "Allow userfaultfd, and ioctl on /dev/userfaultfd, in this process's seccomp filter; \
             the kernel needs CONFIG_USERFAULTFD=y.",
        ),
    )
}

fn access(host: &Host) -> Finding {
    let userfaultfd = &host.calls.userfaultfd;
    let ways: Vec<_> = [
        (userfaultfd.device, "/dev/userfaultfd"),
        (userfaultfd.syscall, "the system call"),
        (
            userfaultfd.syscall_user_mode,
            "the system call for user-mode faults",
        ),
    ]
    .into_iter()
    .filter_map(|(way, name)| way.works().then_some(name))
    .collect();
    finding(
        ACCESS,
        ACCESS_TITLE,
        format!(
            "by {}; {} features",
            ways.join(", by "),
            host.userfaultfd_features().names().len()
        ),
        Level::Good,
        "New memory can be marked where bytes are lost, and mapped as it was filled, before anybody \
         sees it.",
    )
}

fn kernel_faults(host: &Host) -> Finding {
    let id = "userfaultfd.kernel_faults";
    let title = "Faults taken inside the kernel";
    let means = "Not needed for a mend, at once or on demand: what is not back is marked, and whoever \
                 touches it waits for the signal's answer.";
    match host.kernel_faults() {
        Some(KernelFaults::Device) => finding(
            id,
            title,
            "allowed by access to /dev/userfaultfd",
            Level::Good,
            means,
        ),
        Some(KernelFaults::Capability) => {
            finding(id, title, "allowed by CAP_SYS_PTRACE", Level::Good, means)
        }
        Some(KernelFaults::Sysctl) => finding(
            id,
            title,
            "allowed by vm.unprivileged_userfaultfd",
            Level::Good,
            means,
        ),
        None => finding(id, title, "not allowed", Level::Note, means),
    }
}

fn poison(host: &Host) -> Finding {
    let id = "userfaultfd.poison";
    let title = "UFFDIO_POISON";
    if host.userfaultfd_features().has(UFFD_FEATURE_POISON) {
        finding(
            id,
            title,
            "offered",
            Level::Good,
            "Lost frames can be marked, so that every later touch of one is a memory error again.",
        )
    } else {
        finding(
            id,
            title,
            "not offered",
            Level::Blocks,
            "Lost frames cannot be marked: whoever reads one would get bytes that were never \
             written.",
        )
        .advise("Boot kernel 6.6 or newer.")
    }
}

fn minor(host: &Host) -> Finding {
    let id = "userfaultfd.minor";
    let title = "Minor faults (UFFDIO_CONTINUE)";
    let features = host.userfaultfd_features();
    let shmem = features.has(UFFD_FEATURE_MINOR_SHMEM);
    let hugetlb = features.has(UFFD_FEATURE_MINOR_HUGETLBFS);
    match (shmem, hugetlb) {
        (true, true) => finding(
            id,
            title,
            "offered on shmem and hugetlb",
            Level::Good,
            "New memory is filled out of the guest's sight and shown to it page by page, huge ones \
             included.",
        ),
        (true, false) => finding(
            id,
            title,
            "offered on shmem, not on hugetlb",
            Level::Limits,
            "New memory is filled out of the guest's sight and shown to it page by page. What \
             replaces a mended page comes from shmem, not from a hugetlb pool.",
        )
        .advise("Boot a kernel with CONFIG_HUGETLBFS=y, on x86-64 or arm64."),
        (false, _) => finding(
            id,
            title,
            "not offered on shmem",
            Level::Blocks,
            "New memory cannot be shown to the guest page by page: it would be seen unfilled.",
        )
        .advise("Boot kernel 5.14 or newer with CONFIG_SHMEM=y, on x86-64 or arm64."),
    }
}
