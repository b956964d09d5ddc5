//! Bad luck repeats: errors where there were errors before.

use pagemend_core::address::PageSize;
use pagemend_core::ledger::Cause;
use pagemend_core::plan::Action;
use pagemend_linux::{Inject, InjectError, MemoryKind};

use crate::guest::{GIB, Guest, MIB, gpa};
use crate::smaps::check_page_sizes;

#[test]
fn a_second_error_in_mended_small_pages_loses_one_more_frame() {
    let guest = Guest::huge(8 * MIB);
    let mut lost = vec![];
    for frame in [2 * MIB + 0x3000, 2 * MIB + 0x9000, 4 * MIB - 0x1000] {
        guest.fail(frame);
        lost.push(frame);
        guest.check_all_but(&lost);
    }
    let actions: Vec<_> = guest.outcomes().into_iter().map(|(done, _)| done).collect();
    assert_eq!(actions, [Action::Mend, Action::Record, Action::Record]);
}

#[test]
fn a_second_error_in_mended_huge_pages_is_mended_again() {
    let guest = Guest::with_spare(MemoryKind::Hugetlb(PageSize::SIZE_1G), GIB, 512);
    guest.fail(0x3000);
    guest.load(0);
    guest.pagemend.settle();
    guest.fail(600 * MIB);
    guest.check_all_but(&[0x3000, 600 * MIB]);
    let actions: Vec<_> = guest.outcomes().into_iter().map(|(done, _)| done).collect();
    assert_eq!(actions, [Action::Mend, Action::Mend]);
    assert_eq!(check_page_sizes(&guest), [GIB - 4 * MIB, 0, 4 * MIB]);
}

#[test]
fn the_same_frame_twice_is_lost_once() {
    let guest = Guest::huge(8 * MIB);
    guest.fail(2 * MIB);
    guest.fail(2 * MIB);
    guest.check_all_but(&[2 * MIB]);
    let again = guest.pagemend.emulated_errors();
    let refused = again.inject(gpa(2 * MIB + 8), Cause::ActionRequired);
    assert!(matches!(refused, Err(InjectError::Lost { gpa: lost }) if lost == gpa(2 * MIB)));
    assert_eq!(guest.outcomes().len(), 1);
}
