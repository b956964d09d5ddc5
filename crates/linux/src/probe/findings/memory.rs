//! Where guests live, and where the memory comes from that replaces a mended page.

use pagemend_core::address::PageSize;

use super::super::{Finding, Group, Host, Level, Pool};

/// Pages of a pool that doctor suggests where there is none: enough for a demonstration.
const FIRST_PAGES: u64 = 16;

/// `vm.max_map_count` that the kernel starts with (include/linux/mm.h).
const DEFAULT_MAX_MAP_COUNT: u64 = 65530;

pub(super) fn findings(host: &Host) -> Vec<Finding> {
    let mut findings = vec![memfd(host)];
    if host.files.hugetlb.is_empty() {
        findings.push(
            finding(
                "memory.hugetlb",
                "HugeTLB",
                "no pool of any size",
                Level::Note,
                "Guests can be put on transparent huge pages and on 4 KiB pages.",
            )
            .advise("For hugetlb guests, boot a kernel with CONFIG_HUGETLBFS=y."),
        );
    }
    findings.extend(host.files.hugetlb.iter().map(|pool| hugetlb(host, pool)));
    findings.extend([thp(host), shmem_thp(host)].into_iter().flatten());
    findings.extend(collapse(host));
    findings.push(huge_tmpfs(host));
    findings.extend(max_map_count(host));
    findings
}

fn finding(
    id: &'static str,
    title: impl Into<String>,
    found: impl Into<String>,
    level: Level,
    means: impl Into<String>,
) -> Finding {
    Finding::new(Group::Memory, id, title, found, level, means)
}

fn memfd(host: &Host) -> Finding {
    let id = "memory.memfd";
    let title = "Memory files";
    match host.calls.memory.memfd.error() {
        None => finding(
            id,
            title,
            "memfd_create works",
            Level::Good,
            "New memory can be made, filled in one view and shown to the guest in another.",
        ),
        Some(error) => finding(
            id,
            title,
            error.to_string(),
            Level::Blocks,
            "There is no new memory to put in the place of a poisoned page.",
        )
        .advise(
            "Allow memfd_create in this process's seccomp filter, and see that \
             `sysctl vm.memfd_noexec` is not 2.",
        ),
    }
}

fn hugetlb(host: &Host, pool: &Pool) -> Finding {
    let size = pool.page_size;
    let finding = |level, means: String| {
        let title = format!("HugeTLB pool of {size} pages");
        finding("memory.hugetlb", title, census(pool), level, means)
    };
    if let Some(error) = host.calls.memory.memfd_hugetlb.error() {
        return finding(
            Level::Limits,
            format!("Not usable through a memfd ({error}): no guest memory from this pool."),
        );
    }
    if !pool.is_usable() {
        let advice = if size >= PageSize::SIZE_1G {
            format!(
                "{}; where memory is too fragmented for it, boot with `hugepagesz={}G hugepages=1`",
                grow(pool, 1),
                size.bytes() >> 30
            )
        } else {
            grow(pool, FIRST_PAGES)
        };
        return finding(
            Level::Note,
            "The pool is empty: no guest can be put on pages of this size.".to_owned(),
        )
        .advise(advice);
    }
    if size <= PageSize::SIZE_2M {
        return finding(
            Level::Good,
            format!(
                "Guests can be put on {size} pages. A mended one becomes pages of {}, which need \
                 no pool.",
                PageSize::SIZE_4K
            ),
        );
    }
    let small = PageSize::SIZE_2M;
    let needed = size.bytes() / small.bytes() - 1;
    let means = format!(
        "Guests can be put on {size} pages. A mended one becomes {needed} pages of {small} and, \
         around the lost frame, pages of {}.",
        PageSize::SIZE_4K
    );
    let source = host
        .files
        .hugetlb
        .iter()
        .find(|pool| pool.page_size == small);
    let spare = source.map_or(0, Pool::spare);
    if spare >= needed {
        return finding(
            Level::Good,
            format!("{means} The {small} pool has {spare} to spare."),
        );
    }
    let finding = finding(
        Level::Limits,
        format!(
            "{means} The {small} pool has only {spare} to spare: the rest falls back to \
             transparent huge pages or to {}.",
            PageSize::SIZE_4K
        ),
    );
    match source {
        Some(source) => finding.advise(grow(source, source.total + needed - spare)),
        None => finding,
    }
}

fn census(pool: &Pool) -> String {
    let mut census = format!(
        "{} of {} free, {} reserved, {} surplus (up to {})",
        pool.free, pool.total, pool.reserved, pool.surplus, pool.overcommit
    );
    for node in &pool.nodes {
        census += &format!("; node {}: {} of {}", node.node, node.free, node.total);
    }
    census
}

fn grow(pool: &Pool, pages: u64) -> String {
    // Not /proc/sys/vm/nr_hugepages: what size that means depends on the kernel's command line.
    format!(
        "`echo {pages} > /sys/kernel/mm/hugepages/{}/nr_hugepages`",
        pool.directory()
    )
}

fn thp(host: &Host) -> Option<Finding> {
    let thp = &host.files.thp;
    let mode = thp.enabled.as_deref()?;
    let mut found = mode.to_owned();
    if let Some(defrag) = &thp.defrag {
        found += &format!(", defrag {defrag}");
    }
    if let Some(compacts) = thp.khugepaged_defrag {
        found += &format!(
            ", khugepaged {} memory",
            if compacts {
                "compacts"
            } else {
                "does not compact"
            }
        );
    }
    let finding =
        |level, means| finding("memory.thp", "Transparent huge pages", found, level, means);
    Some(match mode {
        "never" => finding(
            Level::Note,
            "Anonymous guest memory is on 4 KiB pages unless it is collapsed by hand.",
        )
        .advise("`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`"),
        _ => finding(
            Level::Good,
            "Anonymous guest memory can be on huge pages. An error there costs 4 KiB: the kernel \
             splits the page itself.",
        ),
    })
}

fn shmem_thp(host: &Host) -> Option<Finding> {
    let mode = host.files.thp.shmem_enabled.as_deref()?;
    let advice = "`echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled`";
    let finding = |level, means| {
        finding(
            "memory.shmem_thp",
            "Transparent huge pages for shmem",
            mode,
            level,
            means,
        )
    };
    Some(match mode {
        "deny" => finding(
            Level::Limits,
            "memfds never have huge pages, whatever is asked for: what replaces a mended page is \
             on 4 KiB pages unless a hugetlb pool gives more.",
        )
        .advise(advice),
        "never" => finding(
            Level::Note,
            "memfds come up on 4 KiB pages. Collapsing them, or a tmpfs with huge=always, still \
             makes them huge.",
        )
        .advise(advice),
        _ => finding(
            Level::Good,
            "memfds can come up on huge pages, for guests and for what replaces a mended page.",
        ),
    })
}

fn collapse(host: &Host) -> Option<Finding> {
    let trial = host.calls.memory.collapse?;
    let id = "memory.collapse";
    let title = "MADV_COLLAPSE on a memfd";
    Some(match trial.error() {
        None => finding(
            id,
            title,
            "works",
            Level::Good,
            "What replaces a mended page can be made huge again after it has been filled.",
        ),
        Some(error) => finding(
            id,
            title,
            error.to_string(),
            Level::Limits,
            "What replaces a mended page stays on 4 KiB pages unless a hugetlb pool or a tmpfs with \
             huge=always gives more.",
        )
        .advise("Boot kernel 6.1 or newer; if it is one, free memory is too fragmented: `echo 1 > /proc/sys/vm/compact_memory`"),
    })
}

fn huge_tmpfs(host: &Host) -> Finding {
    let id = "memory.huge_tmpfs";
    let title = "Detached tmpfs with huge=always";
    let tmpfs = &host.calls.memory.huge_tmpfs;
    match (tmpfs.made.error(), tmpfs.block_size) {
        (None, Some(size)) if size > PageSize::SIZE_4K.bytes() => finding(
            id,
            title,
            format!("works, in blocks of {} KiB", size >> 10),
            Level::Good,
            "What replaces a mended page is huge from its first byte on: no collapsing afterwards.",
        ),
        (None, _) => finding(
            id,
            title,
            "can be made, but not of huge pages",
            Level::Note,
            "What replaces a mended page is collapsed after it has been filled, where it can be.",
        ),
        (Some(error), _) => finding(
            id,
            title,
            error.to_string(),
            Level::Note,
            "What replaces a mended page is collapsed after it has been filled, where it can be. \
             With CAP_SYS_ADMIN it would be huge from its first byte on.",
        ),
    }
}

fn max_map_count(host: &Host) -> Option<Finding> {
    let count = host.files.sysctls.max_map_count?;
    let means = format!(
        "The mend of a 2 MiB page can cost four mappings more, that of a 1 GiB page 515, because \
         pool pages that come back one by one stay mappings of their own: one process has room for \
         fewer than {} or {} of them.",
        count / 4,
        count / 515
    );
    let finding = |level| {
        finding(
            "memory.max_map_count",
            "vm.max_map_count",
            count.to_string(),
            level,
            means,
        )
    };
    Some(if count < DEFAULT_MAX_MAP_COUNT {
        finding(Level::Limits).advise(format!(
            "`echo {DEFAULT_MAX_MAP_COUNT} > /proc/sys/vm/max_map_count`"
        ))
    } else {
        finding(Level::Good)
    })
}
