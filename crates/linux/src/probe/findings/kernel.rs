//! What the kernel does with a memory error, and what it lets this process do.

use super::super::{Finding, Group, Host, Level, Process, Seccomp, Version};

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    [
        Some(release(host)),
        Some(memory_failure(host)),
        Some(salvage(host)),
        Some(keep_mapped(host)),
        recovery(host),
        early_kill(host),
        Some(capabilities(&host.files.process)),
        seccomp(&host.files.process),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn finding(
    id: &'static str,
    title: &str,
    found: impl Into<String>,
    level: Level,
    means: impl Into<String>,
) -> Finding {
    Finding::new(Group::Kernel, id, title, found, level, means)
}

fn release(host: &Host) -> Finding {
    let kernel = &host.files.kernel;
    let found = match &kernel.release {
        Some(release) => format!("{release} on {}", kernel.architecture),
        None => format!("unknown release on {}", kernel.architecture),
    };
    let finding = |level, means| finding("kernel.release", "Release", found, level, means);
    match kernel.version {
        Some(version) if version >= Version::MENDABLE => finding(
            Level::Good,
            "Has every call that a mend needs: they are complete since 6.6.",
        ),
        Some(_) => finding(
            Level::Limits,
            "Older than 6.6, with which the calls that a mend needs are complete. What a \
             distribution has carried back shows below.",
        )
        .advise("Boot kernel 6.6 or newer."),
        None => finding(
            Level::Note,
            "What depends on the version alone is taken as absent.",
        ),
    }
}

fn memory_failure(host: &Host) -> Finding {
    let id = "kernel.memory_failure";
    let title = "CONFIG_MEMORY_FAILURE";
    match &host.files.kernel.memory_failure {
        Some(built) if built.built_in => finding(
            id,
            title,
            format!("built in, by {}", built.evidence),
            Level::Good,
            "The kernel takes a failed page out of use and tells the process which address it was: \
             real errors can be mended.",
        ),
        Some(built) => finding(
            id,
            title,
            format!("not built in, by {}", built.evidence),
            Level::Limits,
            "The kernel neither takes a failed page out of use nor says which address it was: an \
             uncorrected error kills the process or stops the machine. Only emulated errors can be \
             mended.",
        )
        .advise("Boot a kernel with CONFIG_MEMORY_FAILURE=y, as the large distributions build it."),
        None => finding(
            id,
            title,
            "unknown: neither a configuration nor /proc/sys/vm can be read",
            Level::Limits,
            "It is not certain that real errors reach the process; emulated ones do.",
        )
        .advise("Mount /proc."),
    }
}

fn salvage(host: &Host) -> Finding {
    let id = "kernel.hugetlb_salvage";
    let title = "Reading past the poison of a hugetlb page";
    match host.files.kernel.salvages_hugetlb() {
        Some(true) if host.no_real_errors().is_some() => finding(
            id,
            title,
            "yes, by version (6.6 or newer)",
            Level::Note,
            "There is nothing to use it for: real errors cannot be mended here, and emulated ones \
             leave every byte readable.",
        ),
        Some(true) => finding(
            id,
            title,
            "yes, by version (6.6 or newer)",
            Level::Good,
            "The healthy bytes of a poisoned huge page can be read from its file: no more than 4 KiB \
             of it is lost.",
        ),
        salvages => finding(
            id,
            title,
            match salvages {
                Some(_) => "no, by version (older than 6.6)",
                None => "unknown: no version",
            },
            Level::Limits,
            "A real error in a hugetlb page loses the whole page.",
        )
        .advise("Boot kernel 6.6 or newer, or put guests on transparent huge pages."),
    }
}

fn keep_mapped(host: &Host) -> Finding {
    let id = "kernel.keep_ue_mapped";
    let title = "MFD_MF_KEEP_UE_MAPPED";
    match host.calls.memory.keep_ue_mapped.error() {
        None => finding(
            id,
            title,
            "accepted by memfd_create",
            Level::Good,
            "A memfd made with it stays mapped after an error: nothing needs to be swapped, only \
             the lost frames are kept from the guest.",
        ),
        Some(error) => finding(
            id,
            title,
            format!("not accepted ({error})"),
            Level::Note,
            "Without it the kernel unmaps the whole huge page after an error, and pagemend swaps \
             new memory in. The policy `keep` is unavailable.",
        ),
    }
}

fn recovery(host: &Host) -> Option<Finding> {
    let value = host.files.sysctls.memory_failure_recovery?;
    let id = "kernel.memory_failure_recovery";
    let title = "vm.memory_failure_recovery";
    Some(match value {
        0 => finding(
            id,
            title,
            "0",
            Level::Limits,
            "The kernel panics at every uncorrected error: there is nobody left to mend.",
        )
        .advise("`echo 1 > /proc/sys/vm/memory_failure_recovery`"),
        value => finding(
            id,
            title,
            value.to_string(),
            Level::Good,
            "The kernel tries to go on after an uncorrected error.",
        ),
    })
}

fn early_kill(host: &Host) -> Option<Finding> {
    let value = host.files.sysctls.memory_failure_early_kill?;
    let id = "kernel.memory_failure_early_kill";
    let title = "vm.memory_failure_early_kill";
    Some(match value {
        0 => finding(
            id,
            title,
            "0",
            Level::Good,
            "An error that a scrubber finds (AO) is told at once only to threads that asked for \
             it. pagemend's mender thread does.",
        ),
        value => finding(
            id,
            title,
            value.to_string(),
            Level::Note,
            "An error that a scrubber finds (AO) is told at once to every process that maps the \
             page. Those without a SIGBUS handler die of it, although nothing has touched the \
             error yet.",
        )
        .advise("`echo 0 > /proc/sys/vm/memory_failure_early_kill`"),
    })
}

fn capabilities(process: &Process) -> Finding {
    let id = "kernel.capabilities";
    let title = "CAP_SYS_ADMIN";
    match process.cap_sys_admin {
        Some(true) => finding(
            id,
            title,
            "in effect",
            Level::Good,
            "No mend needs it. It allows injecting with MADV_HWPOISON where the kernel has memory \
             failure, and staging memory on a tmpfs with huge pages.",
        ),
        Some(false) => finding(
            id,
            title,
            "not in effect",
            Level::Note,
            "No mend needs it. Without it errors are injected by emulation only, and staging \
             memory becomes huge by MADV_COLLAPSE only.",
        ),
        None => finding(
            id,
            title,
            "unknown: /proc/self/status does not say",
            Level::Note,
            "No mend needs it; injecting with MADV_HWPOISON does.",
        ),
    }
}

fn seccomp(process: &Process) -> Option<Finding> {
    let id = "kernel.seccomp";
    let title = "Seccomp";
    Some(match process.seccomp? {
        Seccomp::Off => finding(id, title, "off", Level::Good, "No system call is filtered."),
        Seccomp::Filter => finding(
            id,
            title,
            "a filter is installed",
            Level::Note,
            "What it refuses to this process shows below. A filter of the VMM's own must allow \
             memfd_create, userfaultfd and its ioctls, mmap, madvise and pread64.",
        ),
        Seccomp::Strict => finding(
            id,
            title,
            "strict mode",
            Level::Limits,
            "Only read, write, exit and sigreturn are allowed.",
        ),
    })
}
