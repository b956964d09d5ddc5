//! Whether the kernel tells the mender before anybody has touched the memory.

use std::sync::mpsc;

use pagemend_core::address::PageSize;
use pagemend_core::ledger::Cause;
use pagemend_linux::{Inject, InjectError, MemoryKind};

use crate::guest::{Guest, MIB, gpa};

const KIND: MemoryKind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
const LOST: u64 = 2 * MIB + 0x3000;

/// What the mender's thread has asked the kernel for (prctl PR_MCE_KILL_GET).
fn policy_of_the_mender(early: Option<bool>) -> libc::c_int {
    let (tell, told) = mpsc::channel();
    let guest = Guest::with(KIND, 4 * MIB, |builder| {
        let builder = match early {
            Some(early) => builder.early_kill(early),
            None => builder,
        };
        builder.listen("asks", move |_| {
            // SAFETY: the call takes no pointers.
            let policy = unsafe { libc::prctl(libc::PR_MCE_KILL_GET, 0, 0, 0, 0) };
            // The receiver takes one and goes.
            let _ = tell.send(policy);
        })
    });
    guest.fail_untouched(LOST);
    guest.check_all_but(&[LOST]);
    told.recv().unwrap()
}

#[test]
fn the_mender_is_told_early_unless_said_otherwise() {
    assert_eq!(policy_of_the_mender(None), libc::PR_MCE_KILL_EARLY);
    assert_eq!(policy_of_the_mender(Some(true)), libc::PR_MCE_KILL_EARLY);
    assert_eq!(policy_of_the_mender(Some(false)), libc::PR_MCE_KILL_DEFAULT);
}

#[test]
fn a_scrubbers_find_can_only_be_pretended_as_the_mender_was_built_to_hear_of_it() {
    for (early, cause) in [
        (true, Cause::ActionRequired),
        (false, Cause::ActionOptional),
    ] {
        let guest = Guest::with(KIND, 4 * MIB, |builder| builder.early_kill(early));
        let refused = guest.pagemend.corrupt_pfn_errors().inject(gpa(LOST), cause);
        assert!(
            matches!(refused, Err(InjectError::OtherCause { early_kill }) if early_kill == early)
        );
    }
}

#[test]
fn what_the_kernel_cannot_do_is_an_error_that_says_what_to_do() {
    let guest = Guest::huge(4 * MIB);
    let corrupt = guest.pagemend.corrupt_pfn_errors();
    if let Err(error) = corrupt.inject(gpa(LOST), Cause::ActionOptional) {
        match error {
            InjectError::NoMemoryFailure => {}
            InjectError::NoHwpoisonInject { .. } => {
                assert!(error.to_string().contains("hwpoison-inject"));
            }
            other => panic!("{other}"),
        }
        guest.check_all_but(&[]);
    }
    if let Err(error) = (guest.pagemend.madvise_errors()).inject(gpa(LOST), Cause::ActionOptional) {
        assert!(matches!(error, InjectError::NoMemoryFailure), "{error}");
    }
}
