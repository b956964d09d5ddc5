//! A child of fork(2): it has the handler, but no mender, and not the marks.

use pagemend_core::address::PageSize;
use pagemend_linux::MemoryKind;

use crate::child;
use crate::guest::{Guest, MIB, gpa, pattern};

const LOST: u64 = 2 * MIB + 0x3000;

/// How a child of a fork ends that loads the word at `offset`: with exit code 0 where it has the
/// expected value, 1 where it is something else, or by a signal.
fn load_in_child(guest: &Guest, offset: u64) -> Result<i32, i32> {
    let word = guest.word(offset);
    let expected = pattern(gpa(offset));
    // SAFETY: the child does nothing but load a word and leave.
    let status = unsafe {
        let child = libc::fork();
        if child == 0 {
            // Nothing waits forever for a child that should have ended.
            libc::alarm(20);
            let ok = word.read_volatile() == expected;
            libc::_exit(i32::from(!ok));
        }
        assert!(child > 0);
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        status
    };
    match libc::WIFEXITED(status) {
        true => Ok(libc::WEXITSTATUS(status)),
        false => Err(libc::WTERMSIG(status)),
    }
}

#[test]
fn it_reads_healthy_memory_before_and_after_a_mend() {
    let name = "forked::it_reads_healthy_memory_before_and_after_a_mend";
    child::passes(name, || {
        let guest = Guest::huge(8 * MIB);
        assert_eq!(load_in_child(&guest, 0), Ok(0));
        guest.fail(LOST);
        guest.check_all_but(&[LOST]);
        assert_eq!(load_in_child(&guest, 0), Ok(0));
    });
}

#[test]
fn it_does_not_inherit_a_lost_frame_rather_than_read_zeroes() {
    let name = "forked::it_does_not_inherit_a_lost_frame_rather_than_read_zeroes";
    child::passes(name, || {
        let guest = Guest::huge(8 * MIB);
        guest.fail(LOST);
        guest.check_all_but(&[LOST]);
        assert_eq!(load_in_child(&guest, LOST), Err(libc::SIGSEGV));
        for healthy in [2 * MIB, LOST - 8, LOST + 0x1000, 4 * MIB - 8] {
            assert_eq!(load_in_child(&guest, healthy), Ok(0), "at {healthy:#x}");
        }
    });
}

#[test]
fn a_collapse_of_the_memory_around_it_leaves_a_lost_frame_lost() {
    let guest = Guest::huge(8 * MIB);
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
    let stretch = guest.word(2 * MIB).cast();
    for advice in [libc::MADV_HUGEPAGE, libc::MADV_COLLAPSE] {
        // SAFETY: neither changes a byte of what is mapped. Whether the kernel does it is its
        // business: it may refuse.
        unsafe { libc::madvise(stretch, 2 << 20, advice) };
    }
    guest.check_all_but(&[LOST]);
}

#[test]
fn it_ends_at_a_poisoned_page_rather_than_wait_for_a_mender() {
    let name = "forked::it_ends_at_a_poisoned_page_rather_than_wait_for_a_mender";
    child::passes(name, || {
        for kind in [
            MemoryKind::Anonymous,
            MemoryKind::HugetlbPrivate(PageSize::SIZE_2M),
        ] {
            let guest = Guest::new(kind, 8 * MIB);
            guest.fail(LOST);
            assert_eq!(load_in_child(&guest, LOST), Err(libc::SIGBUS));
            let memory = guest.pagemend.memory("ram").unwrap();
            assert!(memory.load::<u64>(gpa(LOST)).is_err(), "the parent has it");
        }
    });
}
