//! What a VMM has set on its memory, and new memory has to have too: NUMA policy, madvise flags,
//! mlock.

use std::io;
use std::ptr;

use pagemend_core::address::{Hva, HvaRange};

use crate::mapping::advise;
use crate::smaps::Vma;

/// Flags of a mapping, as they were when its region was registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Settings {
    /// `MADV_DONTDUMP`.
    pub(crate) dont_dump: bool,
    /// `MADV_DONTFORK`.
    pub(crate) dont_fork: bool,
    /// `MADV_MERGEABLE`.
    pub(crate) mergeable: bool,
    /// `mlock`.
    pub(crate) locked: bool,
}

impl Settings {
    pub(crate) fn of(vma: &Vma) -> Self {
        Self {
            dont_dump: vma.has("dd"),
            dont_fork: vma.has("dc"),
            mergeable: vma.has("mg"),
            locked: vma.has("lo"),
        }
    }

    /// Applies all but the lock to a mapping that nobody uses yet.
    pub(crate) fn apply(&self, range: HvaRange) -> io::Result<()> {
        let flags = [
            (self.dont_dump, libc::MADV_DONTDUMP),
            (self.dont_fork, libc::MADV_DONTFORK),
            (self.mergeable, libc::MADV_MERGEABLE),
        ];
        for (_, advice) in flags.into_iter().filter(|(set, _)| *set) {
            // SAFETY: none of these changes a byte.
            unsafe { advise(range.start(), range.len(), advice) }?;
        }
        Ok(())
    }

    /// Locks memory that is in place. The pages are all there, so they are locked as they are;
    /// populating would stop at the lost frames.
    pub(crate) fn lock(&self, range: HvaRange) -> io::Result<()> {
        if !self.locked {
            return Ok(());
        }
        let flags = libc::MLOCK_ONFAULT;
        // SAFETY: locking changes no byte; the kernel checks the addresses.
        let done =
            unsafe { libc::mlock2(range.start().get() as *const _, range.len() as usize, flags) };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Ask for the policy of the mapping at an address (include/uapi/linux/mempolicy.h).
const MPOL_F_ADDR: libc::c_ulong = 1 << 1;
/// Bits in a node mask: the kernel's `MAX_NUMNODES` is 1024 at most.
const NODES: usize = 1024;
const WORD: usize = libc::c_ulong::BITS as usize;

/// Where memory comes from: a policy of set_mempolicy(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NumaPolicy {
    mode: libc::c_int,
    nodes: [libc::c_ulong; NODES / WORD],
}

impl NumaPolicy {
    /// The policy of the mapping at `hva`; where it has none, a preference for the node that its
    /// neighbours at `near` are on. `None` where there is nothing to prefer.
    pub(crate) fn of(hva: Hva, near: &[Hva]) -> Option<Self> {
        let mut policy = Self {
            mode: libc::MPOL_DEFAULT,
            nodes: [0; NODES / WORD],
        };
        // SAFETY: the kernel writes a mode and `NODES` bits, for which there is room; with
        // MPOL_F_ADDR alone it looks at the mapping and touches no page.
        let done = unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                &raw mut policy.mode,
                policy.nodes.as_mut_ptr(),
                NODES,
                hva.get(),
                MPOL_F_ADDR,
            )
        };
        if done == 0 && policy.mode != libc::MPOL_DEFAULT {
            return Some(policy);
        }
        let node = near.iter().find_map(|hva| node_of(*hva))?;
        let mut nodes = [0; NODES / WORD];
        *nodes.get_mut(node / WORD)? |= 1 << (node % WORD);
        Some(Self {
            mode: libc::MPOL_PREFERRED,
            nodes,
        })
    }

    /// Has the memory of a mapping that is still empty come from there.
    pub(crate) fn apply(&self, range: HvaRange) -> io::Result<()> {
        // SAFETY: without MPOL_MF_MOVE the call sets a policy and touches no page.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                range.start().get(),
                range.len(),
                self.mode,
                self.nodes.as_ptr(),
                NODES + 1,
                0,
            )
        };
        match done {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// The node of the page that is mapped at `hva`, or `None` where there is none.
fn node_of(hva: Hva) -> Option<usize> {
    let page = hva.get() as *const libc::c_void;
    let mut status: libc::c_int = -1;
    // SAFETY: without target nodes, move_pages(2) only looks up where one page is.
    let done = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            1usize,
            &raw const page,
            ptr::null::<libc::c_int>(),
            &raw mut status,
            0,
        )
    };
    (done == 0)
        .then_some(status)
        .and_then(|node| usize::try_from(node).ok())
}

#[cfg(test)]
mod tests {
    use pagemend_core::address::PageSize;

    use super::*;
    use crate::mapping::{FileView, Mapping};
    use crate::smaps::mappings_of;

    fn memory(len: u64) -> Mapping {
        let file = rustix::fs::memfd_create("settings", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, len).unwrap();
        let mapping = Mapping::reserve(len, PageSize::SIZE_4K).unwrap();
        mapping
            .map(
                &file,
                FileView {
                    at: 0,
                    len,
                    offset: 0,
                },
            )
            .unwrap();
        mapping
    }

    #[test]
    fn settings_are_read_back_as_they_were_applied() {
        let settings = Settings {
            dont_dump: true,
            dont_fork: true,
            mergeable: false,
            locked: true,
        };
        let mapping = memory(1 << 20);
        let range = HvaRange::new(mapping.hva(), mapping.len()).unwrap();
        settings.apply(range).unwrap();
        settings.lock(range).unwrap();
        assert_eq!(Settings::of(&mappings_of(range).unwrap()[0]), settings);
    }

    #[test]
    fn a_numa_policy_is_read_back_as_it_was_applied() {
        let mapping = memory(1 << 20);
        let range = HvaRange::new(mapping.hva(), mapping.len()).unwrap();
        let mut nodes = [0; NODES / WORD];
        nodes[0] = 1;
        let bind = NumaPolicy {
            mode: libc::MPOL_BIND,
            nodes,
        };
        bind.apply(range).unwrap();
        assert_eq!(NumaPolicy::of(mapping.hva(), &[]), Some(bind));
    }

    #[test]
    fn without_a_policy_the_neighbours_node_is_preferred() {
        let (bare, neighbour) = (memory(4096), memory(4096));
        assert_eq!(
            NumaPolicy::of(bare.hva(), &[neighbour.hva()]),
            None,
            "nothing is mapped yet"
        );
        // SAFETY: a byte of a mapping that only this test knows.
        unsafe { neighbour.at(0).write_volatile(1) };
        let policy = NumaPolicy::of(bare.hva(), &[neighbour.hva()]).unwrap();
        assert_eq!(policy.mode, libc::MPOL_PREFERRED);
    }
}
