//! The running kernel: its version, how it was built, and its memory-failure settings.

use std::fs;
use std::io::Read;

use flate2::read::GzDecoder;
use serde::Serialize;

use super::tree::Tree;

/// A kernel version, as far as features depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Version {
    /// The 6 of 6.12.
    pub major: u32,
    /// The 12 of 6.12.
    pub minor: u32,
}

impl Version {
    /// The first mainline kernel with UFFDIO_POISON and with read(2) past the poison of a hugetlb
    /// page (hugetlbfs_read_iter of fs/hugetlbfs/inode.c).
    pub const MENDABLE: Self = Self { major: 6, minor: 6 };

    /// The version at the head of a release name such as `6.12.117-amd64`.
    pub(crate) fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self {
            major: numbers.next()?.parse().ok()?,
            minor: numbers.next()?.parse().ok()?,
        })
    }
}

/// Whether something was built into the kernel, and how that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Built {
    /// Whether it was.
    pub built_in: bool,
    /// The file that says so by what it holds, by being there or by not being there.
    pub evidence: String,
}

/// The running kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kernel {
    /// What `uname -r` prints.
    pub release: Option<String>,
    /// The version in it.
    pub version: Option<Version>,
    /// What the program was compiled for: `x86_64` or `aarch64`.
    pub architecture: &'static str,
    /// CONFIG_MEMORY_FAILURE.
    pub memory_failure: Option<Built>,
    /// Whether the processor offers KVM hardware virtualization, by its flags in /proc/cpuinfo:
    /// `vmx` or `svm`. `None` where these say nothing, as on arm64.
    pub hardware_virtualization: Option<bool>,
}

impl Kernel {
    pub(super) fn read(tree: &Tree<'_>) -> Self {
        let release = tree.text("/proc/sys/kernel/osrelease");
        Self {
            version: release.as_deref().and_then(Version::parse),
            architecture: std::env::consts::ARCH,
            memory_failure: memory_failure(tree, release.as_deref()),
            hardware_virtualization: tree.text(CPUINFO).and_then(|text| virtualizes(&text)),
            release,
        }
    }

    /// Whether reading a poisoned hugetlb file gives its healthy bytes, as far as the version
    /// tells: a distribution may have carried it back to an older one.
    pub fn salvages_hugetlb(&self) -> Option<bool> {
        self.version.map(|version| version >= Version::MENDABLE)
    }
}

const CPUINFO: &str = "/proc/cpuinfo";

/// [`Kernel::hardware_virtualization`] of this machine, with one read of one file.
pub fn hardware_virtualization() -> Option<bool> {
    virtualizes(&fs::read_to_string(CPUINFO).ok()?)
}

/// What /proc/cpuinfo says (arch/x86/kernel/cpu/proc.c).
fn virtualizes(cpuinfo: &str) -> Option<bool> {
    let flags = cpuinfo.lines().find_map(|line| {
        let (name, flags) = line.split_once(':')?;
        (name.trim_end() == "flags").then_some(flags)
    })?;
    Some(
        flags
            .split_whitespace()
            .any(|flag| matches!(flag, "vmx" | "svm")),
    )
}

const EARLY_KILL: &str = "/proc/sys/vm/memory_failure_early_kill";

fn memory_failure(tree: &Tree<'_>, release: Option<&str>) -> Option<Built> {
    let packed = "/proc/config.gz";
    if let Some(config) = tree.bytes(packed) {
        let mut text = String::new();
        match GzDecoder::new(config.as_slice()).read_to_string(&mut text) {
            Ok(_) => {
                if let Some(built) = configured(tree, packed, &text) {
                    return Some(built);
                }
            }
            Err(error) => tree.complain(packed, error),
        }
    }
    let release = release.unwrap_or_default();
    for path in [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ] {
        let config = tree.text(&path);
        if let Some(built) = config.and_then(|text| configured(tree, &path, &text)) {
            return Some(built);
        }
    }
    // Where even its directory is missing, the file's absence says nothing.
    tree.exists("/proc/sys/vm").then(|| Built {
        built_in: tree.exists(EARLY_KILL),
        evidence: EARLY_KILL.to_owned(),
    })
}

fn configured(tree: &Tree<'_>, path: &str, text: &str) -> Option<Built> {
    if !text.contains("CONFIG_") {
        tree.complain(path, "expected a kernel configuration");
        return None;
    }
    Some(Built {
        built_in: text.lines().any(|line| line == "CONFIG_MEMORY_FAILURE=y"),
        evidence: path.to_owned(),
    })
}

/// Settings under /proc/sys/vm that decide what a memory failure leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sysctls {
    /// `vm.memory_failure_early_kill`: 1 tells every process that maps the page, asked or not.
    pub memory_failure_early_kill: Option<u32>,
    /// `vm.memory_failure_recovery`: 0 makes the kernel panic instead.
    pub memory_failure_recovery: Option<u32>,
    /// `vm.enable_soft_offline`: bit 0, pages with many corrected errors are retired; bit 1, but not
    /// hugetlb ones. Kernel 6.11.
    pub enable_soft_offline: Option<u32>,
    /// `vm.unprivileged_userfaultfd`: 1 gives everybody the faults taken inside the kernel.
    pub unprivileged_userfaultfd: Option<u32>,
    /// `vm.max_map_count`: mappings that one process may have.
    pub max_map_count: Option<u64>,
}

impl Sysctls {
    pub(super) fn read(tree: &Tree<'_>) -> Self {
        Self {
            memory_failure_early_kill: tree.number(EARLY_KILL),
            memory_failure_recovery: tree.number("/proc/sys/vm/memory_failure_recovery"),
            enable_soft_offline: tree.number("/proc/sys/vm/enable_soft_offline"),
            unprivileged_userfaultfd: tree.number("/proc/sys/vm/unprivileged_userfaultfd"),
            max_map_count: tree.number("/proc/sys/vm/max_map_count"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_virtualizes_by_one_of_two_whole_flags() {
        let flags = |flags| {
            virtualizes(&format!(
                "processor\t: 0\nflags\t\t: {flags}\nbugs\t: svm\n"
            ))
        };
        assert_eq!(flags("fpu vmx sse"), Some(true));
        assert_eq!(flags("svm"), Some(true));
        assert_eq!(flags("fpu svm_lock vmx_extra"), Some(false));
        assert_eq!(virtualizes("processor\t: 0\nFeatures\t: fp asimd\n"), None);
    }

    #[test]
    fn a_version_is_read_off_any_release_name() {
        for (release, version) in [
            ("6.12.117-amd64", Some((6, 12))),
            ("6.6", Some((6, 6))),
            ("7.2-rc3+", Some((7, 2))),
            ("5.14.0-503.el9.x86_64", Some((5, 14))),
            ("linux", None),
            ("", None),
        ] {
            let expected = version.map(|(major, minor)| Version { major, minor });
            assert_eq!(Version::parse(release), expected, "{release}");
        }
    }
}
