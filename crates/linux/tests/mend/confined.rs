//! Processes that may not do everything: without userfaultfd, and without privileges.

use std::io;
use std::os::unix::process::CommandExt;
use std::sync::Arc;

use pagemend_core::address::PageSize;
use pagemend_core::fault::Verdict;
use pagemend_core::plan::{Action, Reason};
use pagemend_linux::{
    BuildError, GuestMemory, MemoryKind, Origin, Pagemend, RegionConfig, UffdError,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

use crate::child;
use crate::guest::{Guest, MIB, frames, gpa, turn};

const KIND: MemoryKind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
const LOST: u64 = 2 * MIB + 0x3000;

/// Runs `body` where userfaultfd is refused, by the system call and by the device.
fn without_userfaultfd(name: &str, body: impl FnOnce()) {
    const USERFAULTFD_IOC_NEW: u64 = 0xaa00;
    if child::alone() {
        return body();
    }
    let (dword, equal) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
    let new = SeccompCondition::new(1, dword, equal, USERFAULTFD_IOC_NEW).unwrap();
    let rules = [
        (libc::SYS_userfaultfd, vec![]),
        (libc::SYS_ioctl, vec![SeccompRule::new(vec![new]).unwrap()]),
    ];
    let filter = SeccompFilter::new(
        rules.into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    let mut command = child::command(name);
    // SAFETY: between fork and exec only prctl and seccomp are called, on a program built before.
    unsafe {
        command.pre_exec(move || {
            apply_filter(&program).map_err(|_| io::Error::from_raw_os_error(libc::EPERM))
        });
    }
    let output = child::finish(name, &mut command);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_mend_that_is_demanded_where_userfaultfd_is_forbidden_is_an_error() {
    let name = "confined::a_mend_that_is_demanded_where_userfaultfd_is_forbidden_is_an_error";
    without_userfaultfd(name, || {
        let _turn = turn();
        let memory = Arc::new(GuestMemory::new(MemoryKind::Shmem, MIB).unwrap());
        let region = RegionConfig::of("ram", gpa(0), memory).unwrap();
        let builder = Pagemend::builder().region(region).demand_mend();
        let error = builder.start().unwrap_err();
        assert!(matches!(
            error,
            BuildError::Userfaultfd(UffdError::Unavailable(_))
        ));
        assert!(error.to_string().contains("seccomp"), "{error}");
    });
}

#[test]
fn without_userfaultfd_a_page_is_abandoned_and_the_reason_told() {
    let name = "confined::without_userfaultfd_a_page_is_abandoned_and_the_reason_told";
    without_userfaultfd(name, || {
        let guest = Guest::new(KIND, 8 * MIB);
        assert_eq!(guest.pagemend.userfaultfd(), None);
        assert!(!guest.pagemend.capabilities().poison);
        // Nothing can be marked here, so an error looks like this to the mender: reported, and not
        // readable.
        let page = guest.word(2 * MIB).cast();
        // SAFETY: nobody touches the page any more.
        assert_eq!(unsafe { libc::mprotect(page, 2 << 20, libc::PROT_NONE) }, 0);
        let hva = guest.memory.hva().checked_add(LOST).unwrap();
        let lost = Verdict::Lost { gpa: gpa(LOST) };
        assert_eq!(guest.pagemend.report(hva), lost);
        assert_eq!(guest.recorded(), frames(2 * MIB, 2 * MIB));
        assert_eq!(
            guest.outcomes(),
            [(Action::Abandon, vec![Reason::PoisonUnavailable])]
        );
    });
}

#[test]
fn a_process_without_privileges_mends_all_the_same() {
    let name = "confined::a_process_without_privileges_mends_all_the_same";
    child::passes_as_nobody(name, || {
        for kind in [KIND, MemoryKind::Shmem, MemoryKind::AnonymousThp] {
            let guest = Guest::new(kind, 8 * MIB);
            assert_eq!(guest.pagemend.userfaultfd(), Some(Origin::UserModeOnly));
            guest.fail(LOST);
            guest.check_all_but(&[LOST]);
        }
    });
}
