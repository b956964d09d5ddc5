//! What a failure must not touch.

use pagemend_core::address::PageSize;
use pagemend_linux::MemoryKind;

use crate::guest::{Guest, MIB};

#[test]
fn ar_on_a_healthy_byte_waits_for_the_mend_and_reads_again() {
    let guest = Guest::new(MemoryKind::Hugetlb(PageSize::SIZE_2M), 8 * MIB);
    guest.fail(2 * MIB + 0x3000);
    guest.check_all_but(&[2 * MIB + 0x3000]);
    assert_eq!(guest.pagemend.totals().mended, 1);
}

#[test]
fn pages_that_lost_their_first_or_last_frame_keep_the_rest() {
    let guest = Guest::new(MemoryKind::Hugetlb(PageSize::SIZE_2M), 8 * MIB);
    let lost = [0, 4 * MIB - 0x1000, 4 * MIB, 6 * MIB - 0x1000];
    lost.iter().for_each(|frame| guest.fail(*frame));
    guest.check_all_but(&lost);
    assert_eq!(guest.pagemend.totals().mended, 3);
}
