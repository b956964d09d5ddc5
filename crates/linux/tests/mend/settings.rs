//! What a VMM has set on its memory is set on the new memory too.

use std::sync::Arc;

use pagemend_core::address::{Gpa, PageSize};
use pagemend_core::ledger::Cause;
use pagemend_core::plan::Action;
use pagemend_core::policy::Policy;
use pagemend_linux::{GuestMemory, Inject, MemoryKind, Pagemend, RegionConfig};

use crate::child;
use crate::guest::{GIB, Guest, MIB, need_pool, turn};
use crate::smaps::mappings;

const LOST: u64 = 2 * MIB + 0x3000;

fn memory(page_size: PageSize, len: u64) -> Arc<GuestMemory> {
    need_pool(page_size, len / page_size.bytes());
    Arc::new(GuestMemory::new(MemoryKind::Hugetlb(page_size), len).unwrap())
}

/// Mends one page of memory that has its settings.
fn mend(memory: &Arc<GuestMemory>) -> Pagemend {
    let config = RegionConfig::of("ram", Gpa::new(0), Arc::clone(memory)).unwrap();
    let pagemend = Pagemend::builder().region(config).start().unwrap();
    let injector = pagemend.emulated_errors();
    injector
        .inject(Gpa::new(LOST), Cause::ActionOptional)
        .unwrap();
    assert_eq!(pagemend.totals().mended, 1);
    pagemend
}

/// Sets flags, mends, and looks for them everywhere.
fn flags_are_kept(page_size: PageSize, len: u64) {
    let _turn = turn();
    let memory = memory(page_size, len);
    if page_size == PageSize::SIZE_1G {
        need_pool(PageSize::SIZE_2M, 512);
    }
    let (start, bytes) = (memory.as_ptr().cast::<libc::c_void>(), len as usize);
    for advice in [libc::MADV_DONTDUMP, libc::MADV_DONTFORK] {
        // SAFETY: neither changes a byte.
        assert_eq!(unsafe { libc::madvise(start, bytes, advice) }, 0);
    }
    let _pagemend = mend(&memory);
    let start = start as u64;
    let vmas = mappings(start, start + len);
    assert!(vmas.len() > 1, "something was mended");
    for vma in vmas {
        for flag in ["dd", "dc"] {
            assert!(vma.has(flag), "{flag}: {vma:?}");
        }
    }
}

#[test]
fn dont_dump_and_dont_fork_are_kept() {
    flags_are_kept(PageSize::SIZE_2M, 8 * MIB);
}

#[test]
fn dont_dump_and_dont_fork_are_kept_in_each_piece_of_a_gigantic_page() {
    flags_are_kept(PageSize::SIZE_1G, GIB);
}

/// The policy of the mapping at an address: mode and nodes.
fn policy_at(address: u64) -> (libc::c_int, u64) {
    const MPOL_F_ADDR: libc::c_ulong = 2;
    let mut mode = -1;
    let mut nodes = [0u64; 16];
    // SAFETY: room for a mode and 1024 bits.
    let done = unsafe {
        libc::syscall(
            libc::SYS_get_mempolicy,
            &raw mut mode,
            nodes.as_mut_ptr(),
            1024,
            address,
            MPOL_F_ADDR,
        )
    };
    assert_eq!(done, 0);
    (mode, nodes[0])
}

#[test]
fn the_numa_policy_is_kept() {
    let _turn = turn();
    let memory = memory(PageSize::SIZE_2M, 8 * MIB);
    let start = memory.hva().get();
    let node_0 = 1u64;
    // SAFETY: the call reads one word and touches no page.
    let bound = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            start,
            memory.len(),
            libc::MPOL_BIND,
            &raw const node_0,
            64,
            0,
        )
    };
    assert_eq!(bound, 0);
    let _pagemend = mend(&memory);
    for offset in (0..8 * MIB).step_by(MIB as usize) {
        assert_eq!(policy_at(start + offset), (libc::MPOL_BIND, node_0));
    }
}

#[test]
fn memory_that_is_locked_now_and_in_future_is_mended_too() {
    let name = "settings::memory_that_is_locked_now_and_in_future_is_mended_too";
    child::passes(name, || {
        // SAFETY: locking changes no byte.
        if unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE) } != 0 {
            let error = std::io::Error::last_os_error();
            return eprintln!("skipped: memory cannot be locked: {error}");
        }
        for (page_size, len) in [(PageSize::SIZE_2M, 8 * MIB), (PageSize::SIZE_1G, GIB)] {
            let guest = Guest::new(MemoryKind::Hugetlb(page_size), len);
            guest.fail_untouched(LOST);
            assert_eq!(guest.outcomes(), [(Action::Mend, vec![])]);
            guest.check_all_but(&[LOST]);
            let start = guest.word(2 * MIB) as u64;
            for vma in mappings(start, start + 2 * MIB) {
                assert!(vma.has("lo"), "{vma:?}");
            }
        }
    });
}

#[test]
fn a_lock_on_shared_memory_is_kept_when_a_page_is_replaced() {
    let lock = |memory: &GuestMemory| {
        // SAFETY: locking changes no byte.
        unsafe { libc::mlock(memory.as_ptr().cast(), memory.len() as usize) }
    };
    let _turn = turn();
    let memory = Arc::new(GuestMemory::new(MemoryKind::Shmem, MIB).unwrap());
    if lock(&memory) != 0 {
        return eprintln!("skipped: memory cannot be locked");
    }
    let config = RegionConfig::of("ram", Gpa::new(0), Arc::clone(&memory)).unwrap();
    let config = config.policy(Policy::Discard);
    let pagemend = Pagemend::builder().region(config).start().unwrap();
    let injector = pagemend.emulated_errors();
    injector
        .inject(Gpa::new(0x3000), Cause::ActionOptional)
        .unwrap();
    assert_eq!(pagemend.totals().discarded, 1);
    let start = memory.hva().get();
    let vmas = mappings(start, start + MIB);
    assert!(vmas.len() > 1, "a page was replaced");
    for vma in vmas {
        assert!(vma.has("lo"), "{vma:?}");
    }
}
