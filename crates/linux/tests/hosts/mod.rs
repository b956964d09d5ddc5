//! Hosts to judge: file trees as /proc, /sys and /etc have them, and the outcomes of calls.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use pagemend_linux::abi::{
    UFFD_FEATURE_MINOR_HUGETLBFS, UFFD_FEATURE_MINOR_SHMEM, UFFD_FEATURE_POISON,
};
use pagemend_linux::probe::{
    Calls, Features, Files, Host, HugeTmpfs, Kvm, KvmFacts, Memory, Refused, Trial, Userfaultfd,
};
use rustix::io::Errno;
use tempfile::TempDir;

/// The text files of a server with two nodes, all page sizes, all tables and a busy daemon.
pub(crate) const EVERYTHING: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.12.117-amd64\n"),
    ("proc/sys/vm/memory_failure_early_kill", "0\n"),
    ("proc/sys/vm/memory_failure_recovery", "1\n"),
    ("proc/sys/vm/enable_soft_offline", "1\n"),
    ("proc/sys/vm/unprivileged_userfaultfd", "0\n"),
    ("proc/sys/vm/max_map_count", "65530\n"),
    (
        "proc/self/status",
        "Name:\tpagemend\nCapEff:\t0000000000200000\nSeccomp:\t2\nSeccomp_filters:\t1\n",
    ),
    (
        "proc/meminfo",
        "MemTotal:       65536000 kB\nHardwareCorrupted:     8 kB\n",
    ),
    ("proc/41/comm", "kworker/0:1\n"),
    ("proc/412/comm", "rasdaemon\n"),
    (
        "etc/sysconfig/rasdaemon",
        "# PAGE_CE_ACTION=\"off\"\nPAGE_CE_THRESHOLD=\"40\"\nPAGE_CE_ACTION=\"hard\"\n",
    ),
    ("sys/firmware/acpi/tables/HEST", "HEST"),
    ("sys/firmware/acpi/tables/BERT", "BERT"),
    ("sys/firmware/acpi/tables/ERST", "ERST"),
    ("sys/firmware/acpi/tables/EINJ", "EINJ"),
    (
        "sys/kernel/mm/transparent_hugepage/enabled",
        "always [madvise] never\n",
    ),
    (
        "sys/kernel/mm/transparent_hugepage/defrag",
        "always defer defer+madvise [madvise] never\n",
    ),
    (
        "sys/kernel/mm/transparent_hugepage/shmem_enabled",
        "always within_size [advise] never deny force\n",
    ),
    (
        "sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
        "2097152\n",
    ),
    (
        "sys/kernel/mm/transparent_hugepage/khugepaged/defrag",
        "1\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "1024\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
        "600\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages",
        "88\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages",
        "0\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages",
        "16\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages",
        "4\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
        "1\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-1048576kB/resv_hugepages",
        "0\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-1048576kB/surplus_hugepages",
        "0\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-1048576kB/nr_overcommit_hugepages",
        "0\n",
    ),
    (
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
        "1000\n",
    ),
    (
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages",
        "600\n",
    ),
    (
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/surplus_hugepages",
        "0\n",
    ),
    (
        "sys/devices/system/node/node10/hugepages/hugepages-2048kB/nr_hugepages",
        "24\n",
    ),
    (
        "sys/devices/system/node/node10/hugepages/hugepages-2048kB/free_hugepages",
        "0\n",
    ),
    (
        "sys/devices/system/node/node10/hugepages/hugepages-2048kB/surplus_hugepages",
        "0\n",
    ),
    ("sys/devices/system/node/node0/memory_failure/total", "3\n"),
    (
        "sys/devices/system/node/node0/memory_failure/recovered",
        "1\n",
    ),
    (
        "sys/devices/system/node/node0/memory_failure/delayed",
        "1\n",
    ),
    (
        "sys/devices/system/node/node0/memory_failure/ignored",
        "0\n",
    ),
    ("sys/devices/system/node/node0/memory_failure/failed", "1\n"),
];

/// A kernel configuration as /proc/config.gz has it.
pub(crate) fn packed_config(memory_failure: bool) -> Vec<u8> {
    let line = if memory_failure {
        "CONFIG_MEMORY_FAILURE=y"
    } else {
        "# CONFIG_MEMORY_FAILURE is not set"
    };
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    writeln!(packer, "CONFIG_KVM=y\n{line}\nCONFIG_HUGETLBFS=y").unwrap();
    packer.finish().unwrap()
}

pub(crate) fn put(root: &Path, path: &str, contents: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

/// The tree of a server with everything.
pub(crate) fn everything() -> TempDir {
    let root = nothing();
    put(root.path(), "proc/config.gz", packed_config(true));
    for (path, contents) in EVERYTHING {
        put(root.path(), path, contents);
    }
    root
}

/// The tree of a host that has no file at all.
pub(crate) fn nothing() -> TempDir {
    tempfile::tempdir().unwrap()
}

pub(crate) const REFUSED: Trial = Trial::Refused(Refused {
    call: "call",
    errno: Errno::PERM,
});

/// Every call works.
pub(crate) fn all_calls() -> Calls {
    Calls {
        memory: Memory {
            memfd: Trial::Works,
            memfd_hugetlb: Trial::Works,
            keep_ue_mapped: REFUSED,
            collapse: Some(Trial::Works),
            huge_tmpfs: HugeTmpfs {
                made: Trial::Works,
                block_size: Some(2 << 20),
            },
        },
        userfaultfd: Userfaultfd {
            device: Trial::Works,
            syscall: Trial::Works,
            syscall_user_mode: Trial::Works,
            features: Some(Features(
                UFFD_FEATURE_POISON | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_MINOR_HUGETLBFS,
            )),
        },
        kvm: Kvm {
            open: Trial::Works,
            facts: Some(KvmFacts {
                api_version: 12,
                mce_banks: 32,
                mcg_cap: Some((1 << 24 | 1 << 27 | 1 << 8).into()),
                guest_memfd: true,
                memory_fault_info: true,
                arm_sea_to_user: false,
                arm_inject_ext_dabt: false,
            }),
        },
    }
}

/// Every call is refused.
pub(crate) fn no_calls() -> Calls {
    Calls {
        memory: Memory {
            memfd: REFUSED,
            memfd_hugetlb: REFUSED,
            keep_ue_mapped: REFUSED,
            collapse: Some(REFUSED),
            huge_tmpfs: HugeTmpfs {
                made: REFUSED,
                block_size: None,
            },
        },
        userfaultfd: Userfaultfd {
            device: REFUSED,
            syscall: REFUSED,
            syscall_user_mode: REFUSED,
            features: None,
        },
        kvm: Kvm {
            open: REFUSED,
            facts: None,
        },
    }
}

pub(crate) fn capable() -> Host {
    Host {
        files: Files::read(everything().path()),
        calls: all_calls(),
    }
}

pub(crate) fn incapable() -> Host {
    Host {
        files: Files::read(nothing().path()),
        calls: no_calls(),
    }
}
