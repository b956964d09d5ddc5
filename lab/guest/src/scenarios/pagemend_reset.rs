//! A guest is reset after its memory has failed: all of it can be used again, and the next error is handled as the first was.

use crate::crowd::Crowd;
use crate::faults;
use crate::guest::{Guest, Kind};
use crate::inject;
use crate::memory::KIB_4;
use crate::pattern::{fill_range, word};
use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use anyhow::{Context, Result};
use pagemend::{Action, Builder, Policy, RegionConfig};
use pagemend_lab_protocol::{ScenarioInfo, Set};

inventory::submit! {
    Family(|| {
        let cases = Kind::ALL.into_iter().map(|kind| (kind, Policy::Mend));
        let cases = cases.chain([(Kind::Hugetlb2M, Policy::Abandon), (Kind::Hugetlb2M, Policy::Discard)]);
        cases.map(|(kind, policy)| Scenario {
            info: ScenarioInfo {
                name: match policy {
                    Policy::Mend => format!("pagemend/{}/reset", kind.name()),
                    _ => format!("pagemend/{}/reset-{policy}", kind.name()),
                },
                proves: format!("after a reset all of {} can be read and written again, what was lost is zero, healthy bytes are as they were, and a new error is handled ({policy})", kind.kind()),
                needs: kind.needs(3),
                set: if kind == Kind::Hugetlb1G { Set::All } else { Set::Default },
            },
            run: Box::new(move |t| reset(t, kind, policy)),
        }).collect()
    })
}

/// In one page of any size, where the pages are larger than 4 KiB.
const BAD: [usize; 2] = [0x2_1000, 0x2_3000];

fn reset(t: &mut Trial, kind: Kind, policy: Policy) -> Result<()> {
    let guest = Guest::configured(kind, |region: RegionConfig| region.policy(policy), |_, builder: Builder| builder)?;
    let crowd = Crowd::start(&guest);
    crowd.still(|| inject::madvise_in_use(guest.base() + BAD[0]))?;
    guest.pagemend.settle();
    crowd.go_on();
    crowd.stop();
    // In what is in the page's place now, or is the page still. Where the kernel tells nobody of it,
    // the reset finds it.
    let _ = inject::madvise_in_use(guest.base() + BAD[1]);
    guest.pagemend.settle();
    let mut lost: Vec<usize> = guest.pagemend.with_ledger(|ledger| ledger.iter().map(crate::guest::offset).collect());
    t.saw("frames lost before the reset", lost.len());
    t.claim("something is lost", !lost.is_empty());

    let reset = guest.pagemend.reset().context("no mender")?;
    t.equal("pages that could not be renewed", reset.failed.len(), 0);
    t.equal("frames cleared", reset.cleared_frames, lost.len() as u64);
    t.equal("frames lost after it", guest.pagemend.with_ledger(pagemend::Ledger::len), 0);
    let segments: Vec<String> = guest.pagemend.segments().iter().map(|s| format!("{} of {}", s.gpa.len(), s.page_size)).collect();
    t.saw("segments", segments.join(", "));
    lost.push(BAD[1]);
    check(t, &guest, &lost);

    t.step("the next error");
    fill_range(guest.base(), 0..guest.len());
    let crowd = Crowd::start(&guest);
    crowd.still(|| inject::madvise_in_use(guest.base() + BAD[0]))?;
    guest.pagemend.settle();
    crowd.go_on();
    crowd.stop();
    let expected = match (kind, policy) {
        // What took its place has a file, through which it can be read.
        (Kind::HugetlbPrivate, _) => Action::Mend,
        (_, Policy::Abandon) => Action::Abandon,
        (_, Policy::Discard) => Action::Discard,
        _ => kind.action(),
    };
    t.equal("what was done about it", guest.actions().last(), Some(&expected));
    t.claim("it is lost", faults::load(guest.base() + BAD[0]).is_err() || policy == Policy::Discard);
    Ok(())
}

/// Every frame can be read and written, and reads zero where it was lost.
fn check(t: &mut Trial, guest: &Guest, lost: &[usize]) {
    let (mut wrong, mut faulting) = (vec![], vec![]);
    for frame in (0..guest.len()).step_by(KIB_4) {
        let at = frame + 0x128;
        let expected = if lost.contains(&frame) { 0 } else { word(at) };
        match faults::load(guest.base() + at) {
            Ok(found) if found == expected => {}
            Ok(_) => wrong.push(frame),
            Err(_) => faulting.push(frame),
        }
        // SAFETY: a word of guest memory, into which nobody has references.
        if unsafe { faults::store(guest.base() + at, !expected) }.is_err() {
            faulting.push(frame);
        }
    }
    t.equal("frames that fault after the reset", faulting, vec![]);
    t.equal("frames that are neither zero where lost nor as written elsewhere", wrong, vec![]);
}
