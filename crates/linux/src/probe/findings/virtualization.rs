//! Whether guests run here, and how they can be told of what they lost.

use rustix::io::Errno;

use super::super::{Finding, Group, Host, KvmFacts, Level};
use crate::abi::KVM_API_VERSION;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let Some(kvm) = &host.calls.kvm.facts else {
        return vec![no_kvm(host)];
    };
    let mut findings = vec![version(kvm)];
    findings.extend(host.files.kernel.hardware_virtualization.map(hardware));
    match host.files.kernel.architecture {
        "x86_64" => findings.push(machine_checks(kvm)),
        "aarch64" => findings.extend([arm_inject(kvm), arm_sea(kvm)]),
        _ => {}
    }
    findings.extend([guest_memfd(kvm), memory_fault_info(kvm)]);
    findings
}

fn finding(
    id: &'static str,
    title: &str,
    found: impl Into<String>,
    level: Level,
    means: &str,
) -> Finding {
    Finding::new(Group::Virtualization, id, title, found, level, means)
}

fn no_kvm(host: &Host) -> Finding {
    let error = host.calls.kvm.open.error();
    let found = error.map_or_else(|| "no answer".to_owned(), |error| error.to_string());
    let advice = match (error, host.files.kernel.architecture) {
        (Some(error), _) if error.errno == Errno::ACCESS => {
            "`usermod -aG kvm $USER`, and log in again"
        }
        (_, "x86_64") => "`modprobe kvm_intel` or `modprobe kvm_amd`",
        _ => "Boot a kernel with CONFIG_KVM=y.",
    };
    finding(
        "kvm.open",
        "KVM",
        found,
        Level::Limits,
        "No guest can be run here. Memory of ordinary processes can still be mended.",
    )
    .advise(advice)
}

fn version(kvm: &KvmFacts) -> Finding {
    let found = format!("/dev/kvm opens, API version {}", kvm.api_version);
    let (level, means) = if kvm.api_version == KVM_API_VERSION {
        (Level::Good, "Guests can be run.")
    } else {
        (
            Level::Limits,
            "The only version in use is 12: no VMM runs guests on this one.",
        )
    };
    finding("kvm.open", "KVM", found, level, means)
}

fn hardware(offered: bool) -> Finding {
    let id = "kvm.hardware";
    let title = "Hardware virtualization";
    if offered {
        finding(
            id,
            title,
            "offered",
            Level::Good,
            "Stock kernels run as guests.",
        )
    } else {
        finding(
            id,
            title,
            "not offered: no vmx or svm",
            Level::Limits,
            "A KVM that does without runs guests that are made for it; a stock kernel ends in an \
             error at once.",
        )
        .advise("`cargo xtask lab vm` runs one in an emulated machine.")
    }
}

fn machine_checks(kvm: &KvmFacts) -> Finding {
    let id = "kvm.mce";
    let title = "Machine checks for guests";
    let Some(cap) = kvm.mcg_cap.filter(|_| kvm.mce_banks > 0) else {
        return finding(
            id,
            title,
            "none",
            Level::Limits,
            "A guest cannot be told what it lost: it must be stopped when it touches a lost frame.",
        );
    };
    let bits: Vec<_> = [
        (cap.ctl_p, "MCG_CTL_P"),
        (cap.cmci_p, "MCG_CMCI_P"),
        (cap.ser_p, "MCG_SER_P"),
        (cap.lmce_p, "MCG_LMCE_P"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect();
    let found = format!("{} banks, {}", kvm.mce_banks, bits.join(", "));
    match (cap.ser_p, cap.lmce_p) {
        (true, true) => finding(
            id,
            title,
            found,
            Level::Good,
            "A guest can be told what it lost, one vCPU alone where it asks for that, and take it \
             as recoverable.",
        ),
        (true, false) => finding(
            id,
            title,
            found,
            Level::Good,
            "A guest can be told what it lost and take it as recoverable. Without MCG_LMCE_P an \
             Intel guest wants every vCPU told, not just the one that touched it. AMD guests go by \
             CPUID instead.",
        ),
        (false, _) => finding(
            id,
            title,
            found,
            Level::Limits,
            "Without MCG_SER_P, which KVM gives to no guest on an AMD processor, an Intel guest \
             takes every error as fatal: it is told by error records, and stopped where it touches \
             a lost frame first. AMD guests go by CPUID instead.",
        ),
    }
}

fn arm_inject(kvm: &KvmFacts) -> Finding {
    let id = "kvm.arm_inject_ext_dabt";
    let title = "Injecting external aborts";
    if kvm.arm_inject_ext_dabt {
        finding(
            id,
            title,
            "offered",
            Level::Good,
            "A guest can be told what it lost by a synchronous external abort.",
        )
    } else {
        finding(
            id,
            title,
            "not offered",
            Level::Limits,
            "A guest cannot be told what it lost: it must be stopped when it touches a lost frame.",
        )
        .advise("Boot kernel 5.5 or newer.")
    }
}

fn arm_sea(kvm: &KvmFacts) -> Finding {
    let id = "kvm.arm_sea_to_user";
    let title = "External aborts to the VMM";
    if kvm.arm_sea_to_user {
        finding(
            id,
            title,
            "offered",
            Level::Good,
            "An error that the kernel cannot claim leaves KVM_RUN as KVM_EXIT_ARM_SEA.",
        )
    } else {
        finding(
            id,
            title,
            "not offered",
            Level::Note,
            "Errors arrive as SIGBUS only; one that the kernel cannot claim goes to the guest \
             without the VMM.",
        )
        .advise("Boot kernel 6.19 or newer.")
    }
}

fn guest_memfd(kvm: &KvmFacts) -> Finding {
    let id = "kvm.guest_memfd";
    let title = "guest_memfd";
    if kvm.guest_memfd {
        finding(
            id,
            title,
            "offered",
            Level::Note,
            "Of memory in a guest_memfd an error takes the whole folio, and KVM_RUN fails with \
             EHWPOISON instead of a signal: it is told, not mended.",
        )
    } else {
        finding(
            id,
            title,
            "not offered",
            Level::Note,
            "All guest memory is mapped by the VMM, which is what can be mended.",
        )
    }
}

fn memory_fault_info(kvm: &KvmFacts) -> Finding {
    let id = "kvm.memory_fault_info";
    let title = "Memory fault exits";
    if kvm.memory_fault_info {
        finding(
            id,
            title,
            "offered",
            Level::Good,
            "When KVM_RUN fails for a guest_memfd's memory it says at which guest address.",
        )
    } else {
        finding(
            id,
            title,
            "not offered",
            Level::Note,
            "An error's address comes from the signal alone, which is enough for all memory that \
             the VMM maps.",
        )
    }
}
