//! What the probe reads from the files of hosts that this machine is not.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its part")]
mod hosts;

use pagemend_core::address::PageSize;
use pagemend_linux::probe::{Files, NodePool, Seccomp, Version};

use hosts::{EVERYTHING, everything, nothing, packed_config, put};

#[test]
fn everything_on_a_full_host_is_read() {
    let files = Files::read(everything().path());
    assert_eq!(files.unreadable, []);

    let version = Version {
        major: 6,
        minor: 12,
    };
    assert_eq!(files.kernel.release.as_deref(), Some("6.12.117-amd64"));
    assert_eq!(files.kernel.version, Some(version));
    let built = files.kernel.memory_failure.unwrap();
    assert_eq!(
        (built.built_in, built.evidence.as_str()),
        (true, "/proc/config.gz")
    );
    assert_eq!(files.sysctls.enable_soft_offline, Some(1));
    assert_eq!(files.sysctls.memory_failure_recovery, Some(1));
    assert_eq!(files.sysctls.max_map_count, Some(65530));

    assert_eq!(files.process.cap_sys_admin, Some(true));
    assert_eq!(files.process.cap_sys_ptrace, Some(false));
    assert_eq!(files.process.seccomp, Some(Seccomp::Filter));

    let [small, large] = files.hugetlb.as_slice() else {
        panic!("two pools, not {:?}", files.hugetlb);
    };
    assert_eq!(small.page_size, PageSize::SIZE_2M);
    assert_eq!(small.spare(), 600 - 88 + 16);
    let last = NodePool {
        node: 10,
        total: 24,
        free: 0,
        surplus: 0,
    };
    assert_eq!(small.nodes.last(), Some(&last));
    assert_eq!((large.page_size, large.total), (PageSize::SIZE_1G, 4));

    assert_eq!(files.thp.enabled.as_deref(), Some("madvise"));
    assert_eq!(files.thp.shmem_enabled.as_deref(), Some("advise"));
    assert_eq!(files.thp.size, Some(PageSize::SIZE_2M));
    assert_eq!(files.thp.khugepaged_defrag, Some(true));

    assert_eq!(files.apei.names(), ["HEST", "BERT", "ERST", "EINJ"]);
    assert!(files.rasdaemon.running && files.rasdaemon.offlines_pages());
    assert_eq!(files.rasdaemon.page_ce_action.as_deref(), Some("hard"));
    assert_eq!(files.rasdaemon.page_ce_threshold.as_deref(), Some("40"));

    assert_eq!(files.counters.hardware_corrupted, Some(8 << 10));
    let [node] = files.counters.nodes.as_slice() else {
        panic!("one node, not {:?}", files.counters.nodes);
    };
    assert_eq!((node.total, node.failed), (3, 1));
}

#[test]
fn a_host_without_files_has_no_facts_and_no_complaints() {
    let files = Files::read(nothing().path());
    assert_eq!(files.unreadable, []);
    assert_eq!(files.kernel.release, None);
    assert_eq!(files.kernel.memory_failure, None);
    assert_eq!(files.sysctls, Default::default());
    assert_eq!(files.process, Default::default());
    assert_eq!(files.hugetlb, []);
    assert_eq!(files.thp, Default::default());
    assert_eq!(files.apei, Default::default());
    assert_eq!(files.rasdaemon, Default::default());
    assert_eq!(files.counters, Default::default());
}

#[test]
fn a_file_that_is_not_text_is_named_and_leaves_the_rest_alone() {
    let whole = Files::read(everything().path());
    for (path, _) in EVERYTHING {
        // Of the firmware's tables only their presence counts.
        if path.starts_with("sys/firmware") {
            continue;
        }
        let root = everything();
        put(root.path(), path, b"\xff\xfe\0");
        let files = Files::read(root.path());
        let named: Vec<_> = files.unreadable.iter().map(|file| &file.path).collect();
        assert_eq!(named, [&format!("/{path}")]);
        assert_eq!(files.apei, whole.apei, "{path}");
    }
}

#[test]
fn a_number_that_is_none_is_named() {
    for contents in ["", "many\n", "-1\n", "99999999999999999999\n", "1 2\n"] {
        for path in [
            "proc/sys/vm/max_map_count",
            "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "sys/devices/system/node/node0/memory_failure/total",
        ] {
            let root = everything();
            put(root.path(), path, contents);
            let unreadable = Files::read(root.path()).unreadable;
            assert_eq!(unreadable.len(), 1, "{path} {contents:?} {unreadable:?}");
            assert_eq!(unreadable[0].path, format!("/{path}"));
        }
    }
}

#[test]
fn a_status_that_makes_no_sense_is_named() {
    for status in ["", "CapEff:\tall\nSeccomp:\t0\n", "CapEff:\t0\n"] {
        let root = everything();
        put(root.path(), "proc/self/status", status);
        let files = Files::read(root.path());
        let paths = files.unreadable.iter().map(|file| file.path.as_str());
        assert!(paths.clone().count() > 0, "{status:?}");
        assert!(paths.clone().all(|path| path == "/proc/self/status"));
    }
}

#[test]
fn a_pool_of_no_page_size_is_named() {
    for name in [
        "hugepages-3kB",
        "hugepages-",
        "hugepages-99999999999999999999kB",
        "x",
    ] {
        let root = everything();
        let path = format!("sys/kernel/mm/hugepages/{name}");
        put(root.path(), &format!("{path}/nr_hugepages"), "1\n");
        let files = Files::read(root.path());
        assert_eq!(files.hugetlb.len(), 2);
        assert_eq!(files.unreadable[0].path, format!("/{path}"));
    }
}

#[test]
fn the_configuration_that_is_there_decides_on_memory_failure() {
    let evidence = |root: &tempfile::TempDir| {
        let built = Files::read(root.path()).kernel.memory_failure;
        built.map(|built| (built.built_in, built.evidence))
    };
    let root = nothing();
    assert_eq!(evidence(&root), None);

    let sysctl = "/proc/sys/vm/memory_failure_early_kill".to_owned();
    put(root.path(), "proc/sys/vm/max_map_count", "65530\n");
    assert_eq!(evidence(&root), Some((false, sysctl.clone())));
    put(root.path(), "proc/sys/vm/memory_failure_early_kill", "0\n");
    assert_eq!(evidence(&root), Some((true, sysctl)));

    put(root.path(), "proc/sys/kernel/osrelease", "6.1.0\n");
    put(
        root.path(),
        "boot/config-6.1.0",
        "CONFIG_MEMORY_FAILURE=y\n",
    );
    let boot = "/boot/config-6.1.0".to_owned();
    assert_eq!(evidence(&root), Some((true, boot.clone())));

    put(root.path(), "proc/config.gz", packed_config(false));
    let packed = "/proc/config.gz".to_owned();
    assert_eq!(evidence(&root), Some((false, packed)));

    put(root.path(), "proc/config.gz", b"not gzip");
    assert_eq!(evidence(&root), Some((true, boot)));
    assert_eq!(
        Files::read(root.path()).unreadable[0].path,
        "/proc/config.gz"
    );
}

#[test]
fn a_setting_in_a_comment_is_none() {
    let root = everything();
    put(
        root.path(),
        "etc/sysconfig/rasdaemon",
        "# PAGE_CE_ACTION=off\nPAGE_CE_ACTIONS=off\n",
    );
    let daemon = Files::read(root.path()).rasdaemon;
    assert_eq!(daemon.page_ce_action, None);
    assert!(daemon.offlines_pages(), "its default is to do so");
}
