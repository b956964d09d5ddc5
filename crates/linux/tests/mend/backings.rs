//! What an error takes from each kind of memory.

use std::fs;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::Arc;

use pagemend_core::address::{FRAME_SIZE, PageSize};
use pagemend_core::ledger::Cause;
use pagemend_core::map::Segment;
use pagemend_core::plan::{Action, Reason};
use pagemend_linux::{GuestMemory, Inject, MemoryKind, Pagemend, RegionConfig};

use crate::guest::{Guest, MIB, frames, gpa, need_pool, turn};

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

#[test]
fn a_private_mapping_of_a_hugetlb_file_loses_the_whole_page_and_leaves_the_file_alone() {
    const THEIRS: u64 = 7;
    const PAGE: u64 = 2 * MIB;
    let _turn = turn();
    need_pool(PageSize::SIZE_2M, 4);
    let memory = GuestMemory::new(MemoryKind::Hugetlb(PageSize::SIZE_2M), 2 * PAGE).unwrap();
    let file = memory.file().unwrap().try_clone_to_owned().unwrap();
    let word = |offset: u64| memory.as_ptr().wrapping_add(offset as usize).cast::<u64>();
    let write = |value| {
        for page in [0, PAGE] {
            // SAFETY: a word of the memory that this test has just got.
            unsafe { word(page).write_volatile(value) };
        }
    };
    write(THEIRS);
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: nothing but the pointer of this test goes into the memory.
    let mapped = unsafe {
        let len = memory.len() as usize;
        libc::mmap(
            memory.as_ptr().cast(),
            len,
            rights,
            flags,
            file.as_raw_fd(),
            0,
        )
    };
    assert_eq!(mapped, memory.as_ptr().cast());
    write(!THEIRS);

    let memory = Arc::new(memory);
    let config = RegionConfig::of("ram", gpa(0), Arc::clone(&memory)).unwrap();
    let pagemend = Pagemend::builder().region(config).start().unwrap();
    let filed = |segment: &Segment| segment.source.is_some();
    assert!(
        !pagemend.segments().iter().any(filed),
        "it is not what the file has"
    );
    let injector = pagemend.emulated_errors();
    injector
        .inject(gpa(PAGE + 0x3000), Cause::ActionRequired)
        .unwrap();
    let guarded = pagemend.memory("ram").unwrap();
    assert!(guarded.load::<u64>(gpa(PAGE)).is_err());
    assert_eq!(guarded.load::<u64>(gpa(0)).unwrap(), !THEIRS);
    let lost: u64 = pagemend.with_ledger(|ledger| ledger.iter().count() as u64);
    assert_eq!(lost * FRAME_SIZE, PAGE);

    pagemend.reset().unwrap();
    guarded.store(gpa(PAGE), 1u64).unwrap();
    assert_eq!(guarded.load::<u64>(gpa(0)).unwrap(), !THEIRS);
    for page in [0, PAGE] {
        let mut bytes = [0; 8];
        rustix::io::pread(&file, &mut bytes, page).unwrap();
        assert_eq!(u64::from_ne_bytes(bytes), THEIRS);
    }
}
