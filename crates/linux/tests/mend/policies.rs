//! What is done where a region's policy is not to mend, or a mend is impossible.

use pagemend_core::address::PageSize;
use pagemend_core::event::Step;
use pagemend_core::plan::{Action, Reason};
use pagemend_core::policy::Policy;
use pagemend_linux::{MemoryKind, RegionConfig};

use crate::guest::{Guest, MIB, frames, gpa, need_pool};

const KIND: MemoryKind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
const LOST: u64 = 2 * MIB + 0x3000;

fn guest(region: impl FnOnce(RegionConfig) -> RegionConfig) -> Guest {
    let guest = Guest::build(KIND, 8 * MIB, region, |builder| builder).unwrap();
    guest.fail(LOST);
    guest
}

fn under(policy: Policy) -> Guest {
    guest(|region| region.policy(policy))
}

#[test]
fn discard_tells_the_whole_page_lost_before_anyone_reads_a_zero() {
    let guest = guest(|region| {
        need_pool(PageSize::SIZE_2M, 1);
        region.policy(Policy::Discard)
    });
    let memory = guest.pagemend.memory("ram").unwrap();
    assert!(memory.load::<u64>(gpa(LOST)).is_err(), "who met it is told");
    assert_eq!(guest.recorded(), frames(2 * MIB, 2 * MIB));
    for offset in (2 * MIB..4 * MIB).step_by(8) {
        assert_eq!(guest.load(offset), 0);
    }
    let steps = guest.steps();
    let at = |wanted: fn(&Step) -> bool| steps.iter().position(wanted).unwrap();
    assert!(
        at(|step| matches!(step, Step::Record { .. }))
            < at(|step| matches!(step, Step::Swap { .. }))
    );
    assert_eq!(guest.outcomes(), [(Action::Discard, vec![])]);
    assert_eq!(
        guest.pagemend.segments()[1].page_size,
        PageSize::SIZE_2M,
        "nothing is lost in it, so it is one huge page"
    );
}

#[test]
fn abandon_leaves_the_whole_page_poisoned_and_tells_it_lost() {
    let guest = under(Policy::Abandon);
    assert!(
        guest
            .pagemend
            .memory("ram")
            .unwrap()
            .load::<u64>(gpa(LOST))
            .is_err()
    );
    guest.check_all_but(&frames(2 * MIB, 2 * MIB));
    assert_eq!(guest.outcomes(), [(Action::Abandon, vec![])]);
}

#[test]
fn keep_becomes_a_mend_where_the_kernel_cannot_and_says_so() {
    let guest = under(Policy::Keep);
    if guest.pagemend.capabilities().keep {
        eprintln!("skipped: this kernel can keep poisoned pages mapped");
        return;
    }
    guest.check_all_but(&[LOST]);
    assert_eq!(
        guest.outcomes(),
        [(Action::Mend, vec![Reason::KeepUnavailable])]
    );
}

#[test]
fn a_consumer_that_cannot_follow_makes_the_page_stay_poisoned() {
    let guest = guest(|region| region.consumer("vhost-net", true).consumer("vfio", false));
    assert!(
        guest
            .pagemend
            .memory("ram")
            .unwrap()
            .load::<u64>(gpa(LOST))
            .is_err()
    );
    guest.check_all_but(&frames(2 * MIB, 2 * MIB));
    let name = "vfio".to_owned();
    assert_eq!(
        guest.outcomes(),
        [(Action::Abandon, vec![Reason::ConsumerCannotFollow { name }])]
    );
}

#[test]
fn a_consumer_that_follows_lets_the_page_be_mended() {
    let guest = guest(|region| region.consumer("vhost-net", true));
    guest.check_all_but(&[LOST]);
}
