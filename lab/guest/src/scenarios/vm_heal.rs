//! A stock Linux guest that acknowledges its errors: the memory around them becomes huge pages again under it, and it goes on.

use crate::registry::Family;
use crate::scenarios::ghes::COST;
use crate::scenarios::vm_errors::scenario;
use crate::trial::Trial;
use crate::vm::wish::{Backing, Model, Vmm, Wish};
use crate::vm::{Fate, Vm, outcome};
use anyhow::{Result, bail};
use pagemend_lab_protocol::Set;
use pagemend_lab_protocol::walker::Use;
use std::collections::BTreeSet;

inventory::submit! {
    Family(|| {
        let wish = |backing, model, vcpus| Wish {
            options: &["--heal", "on-ack", "--heal-after", "5"],
            ..Wish::new(Vmm::Pagemend, backing, model, vcpus)
        };
        let wishes = [
            (wish(Backing::Huge2M, Model::Amd, 1), Set::All),
            (wish(Backing::Huge2M, Model::Amd, 4), Set::All),
            (wish(Backing::Huge1G, Model::Amd, 1), Set::All),
        ];
        wishes.map(|(wish, set)| scenario("heal", wish, set, ["errors that were healed in", COST], run)).into()
    })
}

/// Errors, far from each other.
const ERRORS: u64 = 3;

fn run(t: &mut Trial, wish: &Wish) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    let mut frames = BTreeSet::new();
    for number in 0..ERRORS {
        let frame = vm.locate(Use::Walker, number)?;
        t.step(format!("an error in frame {frame:#x}"));
        vm.fail(Use::Walker, frame)?;
        frames.insert(frame);
    }
    let mut fate = vm.settle(t, &frames)?;
    t.step("the guest acknowledges, and keeps off");
    while let Fate::Lives(_) = fate
        && vm.entrusted()? != frames
    {
        if !vm.has_time() {
            bail!("only {:x?} of {frames:x?} are healed", vm.entrusted()?);
        }
        fate = vm.survey(t)?;
    }
    // Everything is checked once more, on what is huge pages again.
    if let Fate::Lives(_) = fate {
        fate = vm.survey(t)?;
    }
    t.equal("frames that the guest keeps off by itself", vm.entrusted()?, frames);
    outcome::judge(t, wish, &vm, &fate)
}
