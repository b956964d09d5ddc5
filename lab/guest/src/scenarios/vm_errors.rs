//! A stock Linux guest whose memory fails: what it loses and whether it lives, under pagemend's VMM and, with the same kernel, memory and errors, under QEMU.

use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use crate::scenarios::ghes::{COST, told};
use crate::vm::wish::{Backing, Model, Vmm, Wish};
use crate::vm::{Fate, Vm, kvm, outcome};
use anyhow::Result;
use pagemend_lab_protocol::walker::{Order, Use};
use pagemend_lab_protocol::{ScenarioInfo, Set};
use std::collections::BTreeSet;

inventory::submit! {
    Family(|| {
        use Backing::{Huge1G, Huge2M, Small, Transparent};
        use Model::{Amd, Intel};
        use Vmm::{Pagemend, Qemu};
        let found = [
            (Wish::new(Pagemend, Huge2M, Amd, 1), Set::Default),
            (Wish::new(Qemu, Huge2M, Amd, 1), Set::Default),
            (Wish::new(Pagemend, Huge2M, Amd, 4), Set::All),
            (Wish::new(Qemu, Huge2M, Intel, 4), Set::All),
            (Wish::new(Pagemend, Huge1G, Amd, 4), Set::All),
            (Wish::new(Qemu, Huge1G, Amd, 4), Set::All),
            (Wish::new(Pagemend, Transparent, Amd, 1), Set::All),
            (Wish::new(Pagemend, Small, Amd, 1), Set::All),
            (Wish::new(Qemu, Small, Amd, 1), Set::All),
        ];
        let found = found.map(|(wish, set)| scenario("found", wish, set, ["errors that a scrubber finds in", COST], errors));
        let touched = [
            (Wish::new(Pagemend, Huge2M, Intel, 1).late(), Set::All),
            (Wish::new(Pagemend, Huge2M, Amd, 1).late(), Set::All),
            (Wish::new(Pagemend, Huge2M, Amd, 4).late(), Set::All),
            (Wish::new(Qemu, Huge2M, Amd, 4).late(), Set::All),
            (Wish::new(Qemu, Huge2M, Intel, 1).late(), Set::All),
            (Wish::new(Pagemend, Huge1G, Amd, 1).late(), Set::All),
            (Wish::new(Pagemend, Small, Amd, 1).late(), Set::All),
        ];
        let touched = touched.map(|(wish, set)| {
            let cost = if wish.model == Intel { COST_OR_NEW_START } else { COST };
            scenario("touched", wish, set, ["errors that are met by touch in", cost], errors)
        });
        // Before it knows of an error nobody is to touch it: it may not recover from a machine check.
        let intel = Wish::new(Pagemend, Huge2M, Intel, 4);
        let intel = scenario("told", intel, Set::All, ["4 errors in a row, of which its kernel has spoken before anyone touches them, in", COST], |t, w| told(t, w, 4));
        found.into_iter().chain(touched).chain([intel]).collect()
    })
}

/// What errors come to that a guest may touch before it has heard of them, if its processors need not let it recover.
pub(crate) const COST_OR_NEW_START: &str = "cost it the failed frames alone if it can recover or has heard of them before it touches them, and otherwise a new start, after which its memory is whole";

pub(crate) fn scenario(
    family: &str,
    wish: Wish,
    set: Set,
    [before, after]: [&str; 2],
    run: fn(&mut Trial, &Wish) -> Result<()>,
) -> Scenario {
    let machine = wish.machine();
    let proves = match wish.vmm {
        Vmm::Pagemend => format!("{before} a guest on {machine} {after}"),
        Vmm::Qemu => format!("what {before} a guest on {machine} cost it under QEMU"),
    };
    Scenario {
        info: ScenarioInfo {
            name: format!("vm-{family}/{machine}/{}", wish.vmm.name()),
            proves,
            needs: wish.needs(),
            set,
        },
        run: Box::new(move |t| run(t, &wish)),
    }
}

/// One error after the other, each in memory that is used otherwise.
fn errors(t: &mut Trial, wish: &Wish) -> Result<()> {
    if wish.vmm == Vmm::Pagemend && !kvm::recovers(wish.model)? {
        return refused(t, wish, 1);
    }
    let mut vm = Vm::start(t, wish)?;
    // A free page is next touched by the guest's kernel, in the middle of something else. So it is left out where the VMM does not hear of errors before: nor does it of the first in a transparent huge page of a file, which the host's kernel splits before it looks who has it mapped.
    let unheard = wish.late || wish.backing == Backing::Transparent;
    let uses: &[Use] = match unheard {
        true => &[Use::Walker, Use::CleanCache, Use::DirtyCache],
        false => &[Use::Walker, Use::CleanCache, Use::DirtyCache, Use::Free],
    };
    let mut frames = BTreeSet::new();
    let mut fate = vm.survey(t)?;
    for what in uses {
        if !matches!(fate, Fate::Lives(_)) {
            break;
        }
        frames.insert(vm.fail_one(t, *what, 0)?);
        fate = vm.told(t, &frames)?;
    }
    // Whoever was told of an error and has not touched it does so in the next round.
    if let Fate::Lives(_) = fate {
        fate = vm.survey(t)?;
    }
    outcome::judge(t, wish, &vm, &fate)
}

/// What a guest touches whose processors do not let it recover it cannot get, and it cannot be told: KVM on an AMD host gives that to no guest that takes its processors for Intel's.
pub(crate) fn refused(t: &mut Trial, wish: &Wish, errors: u64) -> Result<()> {
    t.step("KVM gives this guest no MCG_SER_P, without which it cannot recover from a machine check");
    let mut vm = Vm::start(t, wish)?;
    vm.done(&Order::Hold)?;
    let mut frames = Vec::new();
    for number in 0..errors {
        frames.push(vm.fail_one(t, Use::Walker, number)?);
    }
    let together = if errors > 1 { frames.as_slice() } else { &[] };
    let fate = vm.go_and_survey(t, together)?;
    outcome::measure(t, wish, &vm, &fate)?;
    if let Fate::Lives(survey) = &fate {
        t.step("something else in the page was touched first: the guest had heard of the frame by a record");
        return outcome::lost_only(t, &vm, survey);
    }
    t.claim("the guest is started again rather than lied to", matches!(fate, Fate::StartedAgain));
    outcome::whole_again(t, &mut vm)
}
