//! What this host can do for memory-failure recovery.
//!
//! Gathering and judging are apart: [`Host`] holds facts, some read from files below any root
//! directory, some found by trying the call; [`findings`] and [`Verdict`] are pure functions of
//! them. So every kind of host can be judged in a test, whatever the test runs on.

mod counters;
mod finding;
mod findings;
mod firmware;
mod hugetlb;
mod kernel;
mod kvm;
mod memory;
mod process;
mod rasdaemon;
mod thp;
mod tree;
mod trial;
mod userfaultfd;
mod verdict;

use std::path::Path;

use serde::Serialize;

pub use counters::{Counters, NodeCounters};
pub use finding::{Finding, Group, Level};
pub use findings::findings;
pub use firmware::Apei;
pub use hugetlb::{NodePool, Pool};
pub use kernel::{Built, Kernel, Sysctls, Version, hardware_virtualization};
pub use kvm::{Kvm, KvmFacts, McgCap};
pub use memory::{HugeTmpfs, Memory};
pub use process::{Process, Seccomp};
pub use rasdaemon::Rasdaemon;
pub use thp::Thp;
pub use tree::Unreadable;
pub(crate) use trial::refused;
pub use trial::{Refused, Trial};
pub use userfaultfd::{Features, KernelFaults, Userfaultfd};
pub use verdict::{Errors, Form, Verdict};

use tree::Tree;

/// Everything that is known of a host.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// What its files say.
    #[serde(flatten)]
    pub files: Files,
    /// What came of trying.
    #[serde(flatten)]
    pub calls: Calls,
}

impl Host {
    /// Reads this host's files and tries what only a try can tell. Nothing is changed that outlives
    /// the call.
    pub fn read() -> Self {
        let files = Files::read(Path::new("/"));
        let calls = Calls::make(&files.thp);
        Self { files, calls }
    }
}

/// What a host's files say. A file that is not there makes its fact `None` or empty.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Files {
    /// The kernel and how it was built.
    pub kernel: Kernel,
    /// Settings under /proc/sys/vm.
    pub sysctls: Sysctls,
    /// This process's privileges and restrictions.
    pub process: Process,
    /// HugeTLB pools, smallest page first.
    pub hugetlb: Vec<Pool>,
    /// Transparent huge pages.
    pub thp: Thp,
    /// Error tables from the firmware.
    pub apei: Apei,
    /// The daemon that takes pages offline.
    pub rasdaemon: Rasdaemon,
    /// Memory failures since boot.
    pub counters: Counters,
    /// Files that are there and could not be read or understood.
    pub unreadable: Vec<Unreadable>,
}

impl Files {
    /// Reads the files of the host whose root directory is `root`.
    pub fn read(root: &Path) -> Self {
        let tree = Tree::new(root);
        Self {
            kernel: Kernel::read(&tree),
            sysctls: Sysctls::read(&tree),
            process: Process::read(&tree),
            hugetlb: hugetlb::pools(&tree),
            thp: Thp::read(&tree),
            apei: Apei::read(&tree),
            rasdaemon: Rasdaemon::read(&tree),
            counters: Counters::read(&tree),
            unreadable: tree.into_unreadable(),
        }
    }
}

/// What came of trying, in this process with its privileges and filters.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calls {
    /// Making memory.
    pub memory: Memory,
    /// Taking over page faults.
    pub userfaultfd: Userfaultfd,
    /// Running guests.
    pub kvm: Kvm,
}

impl Calls {
    /// Tries each call. `thp` tells the size of a transparent huge page.
    pub fn make(thp: &Thp) -> Self {
        Self {
            memory: Memory::try_all(thp),
            userfaultfd: Userfaultfd::try_all(),
            kvm: Kvm::try_all(),
        }
    }
}
