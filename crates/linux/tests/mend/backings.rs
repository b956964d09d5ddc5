//! What an error takes from each kind of memory.

use std::fs;
use std::process::Command;

use pagemend_core::address::PageSize;
use pagemend_core::plan::{Action, Reason};
use pagemend_linux::MemoryKind;

use crate::guest::{Guest, MIB, frames};

/// Fails one frame and checks that only that is lost.
fn loses_one_frame(kind: MemoryKind) {
    let guest = Guest::new(kind, 8 * MIB);
    let action = match guest.memory.kind() {
        MemoryKind::Hugetlb(_) | MemoryKind::HugetlbFile(_) => Action::Mend,
        _ => Action::Record,
    };
    let frame = 2 * MIB + 0x3000;
    guest.fail(frame);
    guest.check_all_but(&[frame]);
    assert_eq!(guest.outcomes(), [(action, vec![])]);
}

#[test]
fn a_hugetlb_memfd_loses_one_frame() {
    loses_one_frame(MemoryKind::Hugetlb(PageSize::SIZE_2M));
}

#[test]
fn a_file_on_hugetlbfs_loses_one_frame() {
    let directory = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "hugetlbfs", "-o", "pagesize=2M", "none"])
        .arg(directory.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounting a hugetlbfs takes a privilege");
        return;
    }
    loses_one_frame(MemoryKind::HugetlbFile(directory.path().to_owned()));
    let unmounted = Command::new("umount").arg(directory.path()).status();
    assert!(unmounted.unwrap().success());
    assert!(
        fs::read_dir(directory.path()).unwrap().next().is_none(),
        "it was not the mount that was used"
    );
}

#[test]
fn shared_memory_loses_one_frame() {
    loses_one_frame(MemoryKind::Shmem);
}

#[test]
fn shared_memory_on_transparent_huge_pages_loses_one_frame() {
    loses_one_frame(MemoryKind::ShmemThp);
}

#[test]
fn anonymous_memory_loses_one_frame() {
    loses_one_frame(MemoryKind::Anonymous);
}

#[test]
fn anonymous_memory_on_transparent_huge_pages_loses_one_frame() {
    loses_one_frame(MemoryKind::AnonymousThp);
}

#[test]
fn private_hugetlb_memory_loses_the_whole_page_and_is_told_so() {
    let kind = MemoryKind::HugetlbPrivate(PageSize::SIZE_2M);
    let guest = Guest::new(kind, 8 * MIB);
    guest.fail(2 * MIB + 0x3000);
    let guarded = guest.pagemend.memory("ram").unwrap();
    assert!(guarded.load::<u64>(crate::guest::gpa(2 * MIB)).is_err());
    guest.check_all_but(&frames(2 * MIB, 2 * MIB));
    assert_eq!(
        guest.outcomes(),
        [(Action::Abandon, vec![Reason::NoFileView])]
    );
}
