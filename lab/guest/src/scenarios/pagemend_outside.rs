//! Cases that others have published, written again from their descriptions: what a process gets without pagemend, and with it.

use crate::early_kill::EarlyKill;
use crate::faults::Fault;
use crate::guest::{Guest, Kind};
use crate::memory::{KIB_4, MIB_2};
use crate::pages::Pool;
use crate::pattern::fill;
use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use crate::{faults, inject};
use anyhow::{Result, anyhow};
use pagemend::{Cause, GuestMemory, Step};
use pagemend_lab_protocol::{ScenarioInfo, Set};

/// Where the kernel's proposed selftest hugetlb-mfr injects.
const MFR_2M: [usize; 8] = [
    0x2_0000, 0x4_1000, 0x7_f000, 0x12_0000, 0x13_f000, 0x14_1000, 0x17_f000, 0x18_f000,
];
const MFR_1G: [usize; 8] = [
    0x20_0000, 0x3f_f000, 0x80_1000, 0x200_0000, 0x3ff_f000, 0x400_1000, 0x7ff_f000, 0x801_1000,
];

inventory::submit! {
    Family(|| {
        let cases = [(Kind::Hugetlb2M, MFR_2M, Set::Default), (Kind::Hugetlb1G, MFR_1G, Set::All)];
        cases.map(|(kind, offsets, set)| Scenario {
            info: ScenarioInfo {
                name: format!("outside/{}/hugetlb-mfr", kind.name()),
                proves: format!(
                    "the proposed selftest hugetlb-mfr in {}: eight errors one after another, each by a new thread, leave every healthy byte as written and the pool as large as it was",
                    kind.kind(),
                ),
                needs: kind.needs(2),
                set,
            },
            run: Box::new(move |t| hugetlb_mfr(t, kind, &offsets)),
        }).into()
    })
}

fn hugetlb_mfr(t: &mut Trial, kind: Kind, offsets: &[usize]) -> Result<()> {
    if kind != Kind::Hugetlb1G {
        let alone = GuestMemory::new(kind.kind(), kind.page() as u64)?;
        let base = alone.as_ptr() as usize;
        fill(base, kind.page());
        let first = inject::madvise(base + offsets[0]).0;
        t.claim("without pagemend the first error succeeds", first.is_ok());
        let second = inject::madvise(base + offsets[1]).0;
        t.claim("and the second cannot even be injected: nothing is mapped any more", second.is_err());
        t.equal("without pagemend, readable frames", readable(base, kind.page()), 0);
    }
    let pool = if kind == Kind::Hugetlb1G { Pool::one_gib() } else { Pool::two_mib() };
    let (total, free) = (pool.total(), pool.free());
    let guest = Guest::with(kind, kind.page(), |_, builder| builder)?;
    for offset in offsets {
        let address = guest.base() + offset;
        // Of an error in a transparent huge page of a file the kernel tells nobody before it is touched.
        let meet = move || {
            // While a page of 1 GiB comes back, what has not been touched is not there to fail.
            let healthy = faults::load(address).is_ok();
            inject::madvise_in_use(address).map(|_| healthy && faults::load(address).is_err())
        };
        let met = std::thread::spawn(meet).join().map_err(|_| anyhow!("the injecting thread died"))?;
        t.claim("the thread meets its error, and none before", met?);
    }
    let mut lost = offsets.to_vec();
    lost.sort_unstable();
    guest.lost_only(t, &lost);
    t.equal("pages in the pool", pool.total(), total);
    drop(guest);
    let gone = free - pool.free();
    t.equal("pages of the pool that are gone after the guest is: the one that failed", gone, 1);
    Ok(())
}

/// mce-test's huge page matrix: where in the page, and whether the process asks to be told at once, is told by its touch, or keeps off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mce {
    Early,
    LateTouch,
    LateAvoid,
}

impl Mce {
    fn proves(self) -> &'static str {
        match self {
            Self::Early => "what is lost is told, and only that is, before anybody touches it",
            Self::LateTouch => "nothing is told before a touch, and the touch has it mended",
            Self::LateAvoid => "nothing is told, and nothing in the ledger, for as long as only other pages are touched",
        }
    }
}

inventory::submit! {
    Family(|| {
        let modes = [(Mce::Early, "early"), (Mce::LateTouch, "late-touch"), (Mce::LateAvoid, "late-avoid")];
        let kinds = [Kind::HugetlbfsFile, Kind::Hugetlb2M, Kind::HugetlbPrivate];
        kinds.into_iter().flat_map(|kind| {
            modes.into_iter().flat_map(move |mode| [("head", 0), ("tail", 300 * KIB_4)].map(|place| (kind, mode, place)))
        }).map(|(kind, (mode, mode_name), (place, bad))| Scenario {
            info: ScenarioInfo {
                name: format!("outside/{}/mce-test-{place}-{mode_name}", kind.name()),
                proves: format!("mce-test's case {place} {mode_name} of {}: {}", kind.kind(), mode.proves()),
                needs: kind.needs(2),
                set: Set::All,
            },
            run: Box::new(move |t| mce_test(t, kind, mode, bad)),
        }).collect()
    })
}

fn mce_test(t: &mut Trial, kind: Kind, mode: Mce, bad: usize) -> Result<()> {
    without_pagemend(t, kind, mode, bad)?;
    let early = mode == Mce::Early;
    let guest = Guest::with(kind, kind.len(), |_, builder| builder.early_kill(early))?;
    inject::corrupt(guest.base() + bad)?;
    guest.pagemend.settle();
    if mode == Mce::LateAvoid {
        let beside = faults::load(guest.base() + MIB_2);
        t.equal("the next page", beside, Ok(crate::pattern::word(MIB_2)));
        guest.pagemend.settle();
    }
    if early {
        t.equal("what was done before anybody touches it", guest.actions(), vec![kind.action()]);
    } else {
        t.equal("events before anybody touches it", guest.steps().len(), 0);
        let known = guest.pagemend.with_ledger(|ledger| ledger.iter().count());
        t.equal("frames in the ledger then", known, 0);
    }
    let touched = faults::load(guest.base() + bad);
    t.equal("a touch", touched.map_err(|fault| fault.code), Err(libc::BUS_MCEERR_AR));
    let cause = if early { Cause::ActionOptional } else { Cause::ActionRequired };
    t.equal("what it was done for", causes(&guest).first().copied(), Some(cause));
    t.equal("what was done", guest.actions(), vec![kind.action()]);
    let lost: Vec<usize> = match kind {
        Kind::HugetlbPrivate => (0..kind.page()).step_by(KIB_4).collect(),
        _ => vec![bad],
    };
    guest.lost_only(t, &lost);
    Ok(())
}

/// What the same process gets from the kernel alone, and when.
fn without_pagemend(t: &mut Trial, kind: Kind, mode: Mce, bad: usize) -> Result<()> {
    let memory = GuestMemory::new(kind.kind(), kind.page() as u64)?;
    let base = memory.as_ptr() as usize;
    fill(base, kind.page());
    let ear = (mode == Mce::Early).then(EarlyKill::start).transpose()?;
    inject::corrupt(base + bad)?;
    let lsb = kind.page().trailing_zeros();
    let told = ear.as_ref().map_or_else(faults::optional, EarlyKill::told);
    let expected = ear.map(|_| Fault::action_optional(base + bad, lsb));
    t.equal("without pagemend, told before anybody touches it", told, expected);
    let touched = faults::load(base + bad);
    t.equal("without pagemend, a touch", touched, Err(Fault::action_required(base + bad, lsb)));
    t.equal("without pagemend, readable frames", readable(base, kind.page()), 0);
    Ok(())
}

/// Why each fault arrived.
fn causes(guest: &Guest) -> Vec<Cause> {
    let steps = guest.steps().into_iter();
    steps
        .filter_map(|step| match step {
            Step::Fault { cause, .. } => Some(cause),
            _ => None,
        })
        .collect()
}

fn readable(base: usize, len: usize) -> usize {
    let pages = (base..base + len).step_by(KIB_4);
    pages.filter(|page| faults::load(*page).is_ok()).count()
}
