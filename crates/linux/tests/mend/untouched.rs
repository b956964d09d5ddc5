//! Errors that a scrubber found before anybody touched them.

use pagemend_core::event::Step;
use pagemend_core::ledger::Cause;

use crate::guest::{Guest, MIB, gpa};

const LOST: u64 = 2 * MIB + 0x3000;

fn causes(guest: &Guest) -> Vec<Cause> {
    guest.pagemend.with_ledger(|ledger| {
        let entry = |gpa| ledger.entry(gpa).map(|entry| entry.loss.cause);
        ledger.iter().filter_map(entry).collect()
    })
}

#[test]
fn the_page_is_mended_without_any_touch() {
    let guest = Guest::huge(8 * MIB);
    guest.fail_untouched(LOST);
    assert_eq!(guest.pagemend.totals().mended, 1);
    assert!(guest.pagemend.is_lost(gpa(LOST)));
    assert_eq!(causes(&guest), [Cause::ActionOptional]);
    guest.check_all_but(&[LOST]);
    assert_eq!(guest.outcomes().len(), 1, "nobody met a fault afterwards");
}

#[test]
fn a_frame_that_is_found_and_touched_is_recorded_once() {
    let guest = Guest::huge(8 * MIB);
    guest.fail(LOST);
    guest.fail_untouched(LOST);
    guest.check_all_but(&[LOST]);
    let records = guest.steps().into_iter();
    let records = records.filter(|step| matches!(step, Step::Record { .. }));
    assert_eq!(records.count(), 1);
}

#[test]
fn several_are_found_at_once() {
    let guest = Guest::huge(8 * MIB);
    let lost: Vec<u64> = (0..8).map(|n| n * MIB + 0x3000).collect();
    std::thread::scope(|scope| {
        for frame in &lost {
            scope.spawn(|| guest.fail_untouched(*frame));
        }
    });
    assert_eq!(guest.pagemend.totals().mended, 4);
    guest.check_all_but(&lost);
}
