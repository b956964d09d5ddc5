//! What was broken up around lost frames becomes huge pages again under threads that write, and fails again after that.

use crate::crowd::Crowd;
use crate::guest::{Guest, Kind, gpa, offset};
use crate::memory::{KIB_4, MIB_2};
use crate::pattern::survey;
use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use crate::{faults, inject, pages};
use anyhow::{Context, Result};
use pagemend::{Action, Enforcement, FILL, GpaRange};
use pagemend_lab_protocol::{ScenarioInfo, Set};

inventory::submit! {
    Family(|| {
        let mended = Kind::ALL.into_iter().filter(|kind| kind.action() == Action::Mend);
        mended.map(|kind| Scenario {
            info: ScenarioInfo {
                name: format!("pagemend/{}/heal", kind.name()),
                proves: format!("after a mend the 2 MiB around a lost frame of {} become a huge page again while threads write to them, the lost frame then holds the fill, and an error in the healed memory costs 4 KiB", kind.kind()),
                needs: kind.needs(2),
                set: if kind == Kind::Hugetlb1G { Set::All } else { Set::Default },
            },
            run: Box::new(move |t| heal(t, kind)),
        }).collect()
    })
}

/// In one stretch.
const BAD: [usize; 2] = [MIB_2 + 0x3000, MIB_2 + 0x9000];

fn heal(t: &mut Trial, kind: Kind) -> Result<()> {
    let guest = Guest::of(kind)?;
    let crowd = Crowd::keeping_off(&guest, &BAD);
    t.step("an error");
    t.saw("what the kernel says", inject::madvise_in_use(guest.base() + BAD[0])?);
    guest.pagemend.settle();
    crowd.go_on();
    t.claim("it is lost", faults::load(guest.base() + BAD[0]).is_err());
    t.equal("bytes of the stretch that are mapped as a huge page", huge_bytes(&guest)?, 0);

    t.step("a heal");
    heal_all(t, &guest, &[BAD[0]])?;
    crowd.go_on();

    t.step("an error in healed memory");
    t.saw("what the kernel says of it", crowd.still(|| inject::madvise_in_use(guest.base() + BAD[1]))?);
    guest.pagemend.settle();
    crowd.go_on();
    t.claim("it is lost too", faults::load(guest.base() + BAD[1]).is_err());
    t.equal("what the ledger says of both", BAD.map(|bad| enforcement(&guest, bad)), [Some(Enforcement::Guest), Some(Enforcement::Host)]);
    heal_all(t, &guest, &BAD)?;
    crowd.go_on();

    t.step("an error in a healed frame");
    t.saw("what the kernel says of that", crowd.still(|| inject::madvise_in_use(guest.base() + BAD[0]))?);
    guest.pagemend.settle();
    t.claim("it faults again", faults::load(guest.base() + BAD[0]).is_err());
    guest.pagemend.settle();
    t.equal("and the ledger says so", enforcement(&guest, BAD[0]), Some(Enforcement::Host));
    crowd.go_on();
    crowd.finish(t, &[]);
    let found = survey(guest.base(), 0..guest.len());
    t.saw("the guest's memory", found.summary());
    t.equal("pages that read as written", found.good, guest.len() / KIB_4 - BAD.len());
    let recorded: Vec<usize> = guest.pagemend.with_ledger(|ledger| ledger.iter().map(offset).collect());
    t.equal("the ledger has what is lost", recorded, BAD.to_vec());
    Ok(())
}

/// Heals until nothing is in the way any more: a thread that is at a fault may be.
fn heal_all(t: &mut Trial, guest: &Guest, lost: &[usize]) -> Result<()> {
    let all = GpaRange::new(gpa(0), guest.len() as u64).context("a guest is small")?;
    let mut tries = 1;
    let mut healed = guest.pagemend.heal(all)?;
    while let (Some(unhealed), true) = (healed.failed.first(), tries < 100) {
        t.step(format!("not healed: {}", unhealed.reason));
        healed = guest.pagemend.heal(all)?;
        tries += 1;
    }
    t.saw("tries", tries);
    t.equal("stretches that are not healed", healed.failed.len(), 0);
    t.equal("bytes of the stretch that are mapped as a huge page", huge_bytes(guest)?, MIB_2);
    for bad in lost {
        let words = FILL.as_chunks::<8>().0;
        let read = [0, 8].map(|at| faults::load(guest.base() + bad + at).ok());
        t.equal("what a lost frame holds", read, [0, 1].map(|word| Some(u64::from_ne_bytes(words[word]))));
        t.equal("who keeps off it", enforcement(guest, *bad), Some(Enforcement::Guest));
    }
    Ok(())
}

fn enforcement(guest: &Guest, bad: usize) -> Option<Enforcement> {
    guest.pagemend.with_ledger(|ledger| ledger.enforcement(gpa(bad)))
}

/// Bytes of the stretch in mappings of 2 MiB.
fn huge_bytes(guest: &Guest) -> Result<usize> {
    Ok(pages::huge_shared(guest.base() + MIB_2)?.min(MIB_2))
}
