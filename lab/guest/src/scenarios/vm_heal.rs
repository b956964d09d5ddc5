//! A stock Linux guest that acknowledges its errors: the memory around them becomes huge pages again under it, and it goes on.

use crate::registry::Family;
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
        wishes.map(|(wish, set)| scenario("heal", wish, set, ["errors that were healed in", HEALED], run)).into()
    })
}

/// What errors come to that are healed.
const HEALED: &str = "cost it the failed frames alone, its kernel knows of them and no others, it goes on, and its host has none of its memory in 4 KiB pages any more";

/// Errors, far from each other.
const ERRORS: u64 = 3;

/// Bytes of what is healed at once.
const HUGE: u64 = 2 << 20;

fn run(t: &mut Trial, wish: &Wish) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    let mut frames = BTreeSet::new();
    for number in 0..ERRORS {
        let frame = vm.locate(Use::Walker, number)?;
        t.step(format!("an error in frame {frame:#x}"));
        vm.fail(Use::Walker, frame)?;
        frames.insert(frame);
    }
    let stretches: BTreeSet<u64> = frames.iter().map(|frame| frame * 4096 / HUGE).collect();
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
    outcome::judge(t, wish, &vm, &fate)?;
    if let Fate::Lives(_) = fate {
        let mapped = vm.mapped()?;
        t.equal("bytes of the guest's memory that the VMM has in 4 KiB pages", mapped.small, 0);
        t.claim("what was healed is transparent huge pages", mapped.huge >= stretches.len() as u64 * HUGE);
    }
    Ok(())
}
