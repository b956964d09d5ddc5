//! Who reports errors, and who besides pagemend acts on them.

use pagemend_core::address::PageSize;

use super::super::{Finding, Group, Host, Level, Rasdaemon};

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    [Some(apei(host)), Some(rasdaemon(host)), soft_offline(host)]
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
    Finding::new(Group::Firmware, id, title, found, level, means)
}

fn apei(host: &Host) -> Finding {
    let apei = &host.files.apei;
    let names = apei.names();
    let found = if names.is_empty() {
        "none of HEST, BERT, ERST, EINJ".to_owned()
    } else {
        names.join(", ")
    };
    let (level, mut means) = if apei.hest {
        (
            Level::Good,
            "The firmware tells the kernel of errors, with physical addresses.".to_owned(),
        )
    } else if host.files.kernel.architecture == "aarch64" {
        (
            Level::Limits,
            "Without HEST the firmware does not tell the kernel of memory errors, and arm64 has no \
             other way: real ones are not noticed."
                .to_owned(),
        )
    } else {
        (
            Level::Note,
            "Without HEST errors can reach the kernel as machine checks only, as is usual in \
             virtual machines."
                .to_owned(),
        )
    };
    if apei.einj {
        means += " EINJ: errors can be injected in hardware.";
    }
    finding("firmware.apei", "APEI tables", found, level, means)
}

fn rasdaemon(host: &Host) -> Finding {
    let id = "firmware.rasdaemon";
    let title = "rasdaemon";
    let daemon = &host.files.rasdaemon;
    if !daemon.running {
        return finding(
            id,
            title,
            "not running",
            Level::Note,
            "No such daemon takes pages offline, and none logs corrected errors.",
        );
    }
    let action = daemon
        .page_ce_action
        .as_deref()
        .unwrap_or(Rasdaemon::DEFAULT_ACTION);
    let threshold = daemon
        .page_ce_threshold
        .as_deref()
        .unwrap_or(Rasdaemon::DEFAULT_THRESHOLD);
    let found = format!(
        "running, PAGE_CE_ACTION {action}, PAGE_CE_THRESHOLD {threshold}, {}",
        daemon.config.map_or_else(
            || "both by default".to_owned(),
            |config| format!("by {config}")
        )
    );
    if !daemon.offlines_pages() {
        return finding(
            id,
            title,
            found,
            Level::Good,
            "It logs corrected errors and leaves pages where they are.",
        );
    }
    let config = daemon.config.unwrap_or("/etc/sysconfig/rasdaemon");
    finding(
        id,
        title,
        found,
        Level::Limits,
        "A page with that many corrected errors is taken offline: a hugetlb page is dissolved \
         whole, 1 GiB for bytes that were all still readable.",
    )
    .advise(format!(
        "Set PAGE_CE_ACTION=account in {config}, then `systemctl restart rasdaemon`"
    ))
}

/// Bit 0 of `vm.enable_soft_offline`: pages are retired.
const ENABLED: u32 = 1;
/// Bit 1: but not hugetlb pages.
const SKIP_HUGETLB: u32 = 2;

fn soft_offline(host: &Host) -> Option<Finding> {
    let value = host.files.sysctls.enable_soft_offline?;
    let finding = |level, means: &str| {
        finding(
            "firmware.soft_offline",
            "vm.enable_soft_offline",
            value.to_string(),
            level,
            means,
        )
    };
    if value & ENABLED == 0 {
        return Some(finding(
            Level::Good,
            "Pages with corrected errors stay in use; no huge page is dissolved for them.",
        ));
    }
    if value & SKIP_HUGETLB != 0 {
        return Some(finding(
            Level::Good,
            "Pages with many corrected errors are retired, hugetlb pages excepted.",
        ));
    }
    let gigantic_in_use = host
        .files
        .hugetlb
        .iter()
        .any(|pool| pool.page_size >= PageSize::SIZE_1G && pool.total > 0);
    let level = if gigantic_in_use || host.files.rasdaemon.offlines_pages() {
        Level::Limits
    } else {
        Level::Note
    };
    Some(
        finding(
            level,
            "Firmware, the kernel or a daemon may retire a page with many corrected errors; of \
             hugetlb memory that dissolves the whole huge page.",
        )
        .advise("`echo 0 > /proc/sys/vm/enable_soft_offline`"),
    )
}
