//! What an error came to: measured in the same way whoever runs the guest, so that VMMs can be compared, and claimed for the one under test.

use super::wish::{Vmm, Wish};
use super::{Fate, Vm, kvm};
use crate::trial::Trial;
use anyhow::{Result, bail};
use pagemend_lab_protocol::walker::{Survey, Use};
use serde_json::Value;
use std::collections::BTreeSet;

const FRAME: u64 = 4096;

/// The frames whose touch gave the walker a signal.
fn signalled(survey: &Survey) -> BTreeSet<u64> {
    survey.signals.iter().map(|signal| signal.frame).collect()
}

/// Measures, and claims for the VMM under test that the guest lost what failed and nothing else.
pub(crate) fn judge(t: &mut Trial, wish: &Wish, vm: &Vm, fate: &Fate) -> Result<()> {
    measure(t, wish, vm, fate)?;
    if let (Vmm::Pagemend, Fate::Lives(survey)) = (wish.vmm, fate) {
        lost_only(t, vm, survey)?;
    } else if wish.vmm == Vmm::Pagemend {
        t.claim("the guest lives", false);
    }
    Ok(())
}

/// What became of the guest. One that is dead has lost all of its memory.
pub(crate) fn measure(t: &mut Trial, wish: &Wish, vm: &Vm, fate: &Fate) -> Result<()> {
    t.saw("vmm", wish.vmm.version()?);
    t.saw("errors", vm.failed.len());
    let failed: BTreeSet<u64> = vm.failed.iter().map(|(frame, _)| *frame).collect();
    let failed_bytes = failed.len() as u64 * FRAME;
    let (lost, healthy, corrupted) = match fate {
        Fate::Lives(survey) => {
            let gone = signalled(survey);
            let healthy = gone.difference(&failed).count() as u64;
            (
                gone.len() as u64 * FRAME,
                healthy * FRAME,
                survey.hardware_corrupted_kb.into(),
            )
        }
        _ => (wish.memory, wish.memory - failed_bytes, Value::Null),
    };
    t.saw("guest_alive", matches!(fate, Fate::Lives(_)));
    t.saw("lost_bytes", lost);
    t.saw("healthy_bytes_lost", healthy);
    t.saw("guest_hardware_corrupted_kb", corrupted);
    // What a guest came to is not counted any more when its VMM has ended.
    if let (Fate::Lives(_), Some(before), Some(now)) = (fate, vm.decoded_before, kvm::decoded()) {
        t.saw(
            "instructions that KVM decoded since the first error",
            now - before,
        );
    }
    match fate {
        Fate::Lives(survey) => {
            t.saw("values checked", survey.values);
            t.saw("values wrong", survey.wrong);
            t.equal("wrong values", survey.wrong, 0);
        }
        Fate::StartedAgain => {
            t.saw("fate", "the guest started again");
            t.saw("what the VMM says of it", vm.resets());
            t.saw("last words", vm.last_words());
        }
        Fate::Over(status) => t.saw("fate", format!("the VMM ended: {status}")),
        Fate::Silent(words) => t.saw("fate", format!("the guest hangs: {words}")),
    }
    if let Some(why) = vm.panic() {
        t.saw("guest's panic", why);
    }
    Ok(())
}

/// Claims that exactly the failed frames are lost, of those that hold what exists nowhere else, and that the guest's kernel knows of exactly the failed ones.
pub(crate) fn lost_only(t: &mut Trial, vm: &Vm, survey: &Survey) -> Result<()> {
    t.claim("the guest lives", true);
    let failed: BTreeSet<u64> = vm.failed.iter().map(|(frame, _)| *frame).collect();
    let irreplaceable = vm
        .failed
        .iter()
        .filter(|(_, what)| matches!(what, Use::Walker | Use::DirtyCache));
    let irreplaceable: BTreeSet<u64> = irreplaceable.map(|(frame, _)| *frame).collect();
    t.equal(
        "frames whose touch gave SIGBUS",
        signalled(survey),
        irreplaceable,
    );
    let codes = survey
        .signals
        .iter()
        .all(|signal| signal.code == libc::BUS_MCEERR_AR);
    t.claim("each signal says that action is required", codes);
    t.equal(
        "frames that the guest's kernel calls failed",
        survey.failures.clone(),
        failed.clone(),
    );
    t.equal(
        "HardwareCorrupted, KiB",
        survey.hardware_corrupted_kb,
        failed.len() as u64 * FRAME / 1024,
    );
    t.equal("frames in the VMM's ledger", vm.ledger()?, failed);
    Ok(())
}

/// Claims that a guest after a new start has all of its memory.
pub(crate) fn whole_again(t: &mut Trial, vm: &mut Vm) -> Result<()> {
    vm.failed.clear();
    let Fate::Lives(survey) = vm.survey(t)? else {
        bail!("the guest does not come up again");
    };
    t.equal("wrong values after the new start", survey.wrong, 0);
    t.equal("signals after the new start", survey.signals, vec![]);
    t.equal(
        "HardwareCorrupted after the new start, KiB",
        survey.hardware_corrupted_kb,
        0,
    );
    Ok(())
}
