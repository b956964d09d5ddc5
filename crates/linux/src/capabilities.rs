//! What the mender can do on this host, found out once when it starts.

use pagemend_core::plan::Capabilities;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::abi::MFD_MF_KEEP_UE_MAPPED;
use crate::probe::Version;

/// Asks the kernel. `poison` is whether there is a userfaultfd that can mark pages.
pub(crate) fn capabilities(poison: bool) -> Capabilities {
    let release = rustix::system::uname();
    let version = release.release().to_str().ok().and_then(Version::parse);
    let keep = MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(MFD_MF_KEEP_UE_MAPPED);
    Capabilities {
        salvage: version.is_some_and(|version| version >= Version::MENDABLE),
        poison,
        keep: memfd_create("pagemend-keep", keep | MemfdFlags::CLOEXEC).is_ok(),
    }
}
