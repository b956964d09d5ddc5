//! Guests at their limits: many errors, errors in what the guest's kernel stands on, guests that cannot be told, two processors at once, and a new start after all that.

use crate::registry::Family;
use crate::scenarios::ghes::{COST, told};
use crate::scenarios::vm_errors::{COST_OR_NEW_START, refused, scenario};
use crate::trial::Trial;
use crate::vm::events::is;
use crate::vm::wish::{Backing, Model, Vmm, Wish};
use crate::vm::{Fate, Vm, kvm, outcome};
use anyhow::Result;
use pagemend_lab_protocol::Set;
use pagemend_lab_protocol::walker::{Order, Use};
use serde_json::Value;
use std::collections::BTreeSet;

inventory::submit! {
    Family(|| {
        use Model::{Amd, Intel};
        use Vmm::{Pagemend, Qemu};
        let wish = |vmm, model, vcpus| Wish::new(vmm, Backing::Huge2M, model, vcpus);
        let off = |vmm| Wish { parameters: "mce=off", ..wish(vmm, Amd, 1) };
        let mut all = vec![
            scenario("once-1", wish(Pagemend, Amd, 1), Set::All, ["one error in the walker's memory of", COST], |t, w| many(t, w, 1)),
            scenario("once-16", wish(Pagemend, Amd, 1), Set::All, ["16 errors at once in the walker's memory of", COST], |t, w| many(t, w, 16)),
            scenario("once-16", wish(Qemu, Amd, 1), Set::All, ["16 errors at once in the walker's memory of", COST], |t, w| many(t, w, 16)),
            scenario("once-16", wish(Pagemend, Amd, 4), Set::All, ["16 errors at once in the walker's memory of", COST], |t, w| many(t, w, 16)),
            scenario("once-128", wish(Pagemend, Amd, 1), Set::All, ["128 errors at once in the walker's memory of", COST], |t, w| many(t, w, 128)),
            scenario("once-128", wish(Pagemend, Amd, 4), Set::All, ["128 errors at once in the walker's memory of", COST], |t, w| many(t, w, 128)),
            scenario("told-128", wish(Pagemend, Intel, 1), Set::All, ["128 errors in a row, of which its kernel has spoken before anyone touches them, in", COST], |t, w| told(t, w, 128)),
            scenario("reset", wish(Pagemend, Amd, 1), Set::All, ["8 errors before each of two new starts of", "leave it as much memory as it had"], reset),
            scenario("pause", wish(Pagemend, Amd, 2), Set::All, ["while it is paused, errors in", COST], pause),
            scenario("mce-off", off(Pagemend), Set::All, ["with its machine checks off, an error in", COST_OR_NEW_START], mce_off),
            scenario("mce-off", off(Qemu), Set::All, ["with its machine checks off, an error in", COST_OR_NEW_START], mce_off),
        ];
        for model in [Amd, Intel] {
            let two = wish(Pagemend, model, 2).late();
            let cost = if model == Intel { COST_OR_NEW_START } else { COST };
            all.push(scenario("together", two, Set::All, ["two errors that two processors meet at the same instant in", cost], together));
        }
        for vmm in [Pagemend, Qemu] {
            all.push(scenario("text", wish(vmm, Amd, 1), Set::All, ["an error in the kernel's instructions of", KERNEL], |t, w| kernel(t, w, Use::KernelText)));
            all.push(scenario("slab", wish(vmm, Amd, 1), Set::All, ["an error in the kernel's own objects of", KERNEL], |t, w| kernel(t, w, Use::Slab)));
        }
        all
    })
}

/// What an error comes to in memory that the guest's kernel cannot do without.
const KERNEL: &str = "cost it the failed frame alone or, if its kernel does not survive it, a new start, for which the VMM has reported the reason and after which its memory is whole";

fn fail(t: &mut Trial, wish: &Wish, vm: &mut Vm, errors: u64) -> Result<BTreeSet<u64>> {
    // Some more, for those that the host cannot take away, and found beforehand, as the guest may not live to answer.
    let mut candidates = BTreeSet::new();
    for number in 0..(2 * errors).max(16) {
        candidates.insert(vm.locate(Use::Walker, number)?);
    }
    t.step(format!("{errors} errors"));
    let mut frames = BTreeSet::new();
    for frame in candidates {
        if frames.len() as u64 == errors {
            break;
        }
        if vm.fail(Use::Walker, frame)? {
            frames.insert(frame);
        }
    }
    // QEMU's guest may be gone after the first.
    if wish.vmm == Vmm::Pagemend {
        t.equal("frames that failed", frames.len() as u64, errors);
    }
    Ok(frames)
}

fn many(t: &mut Trial, wish: &Wish, errors: u64) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    let frames = fail(t, wish, &mut vm, errors)?;
    let fate = vm.settle(t, &frames)?;
    outcome::judge(t, wish, &vm, &fate)
}

/// Errors, a new start that the guest wants, errors again, one that the VMM is asked for, and all memory used.
fn reset(t: &mut Trial, wish: &Wish) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    let owned = vm.owned;
    for by_guest in [true, false] {
        let frames = fail(t, wish, &mut vm, 8)?;
        match vm.settle(t, &frames)? {
            Fate::Lives(survey) => outcome::lost_only(t, &vm, &survey)?,
            fate => return outcome::judge(t, wish, &vm, &fate),
        }
        t.step(format!("a new start, {}", if by_guest { "by the guest" } else { "by the VMM" }));
        if by_guest {
            vm.restart(t)?;
        } else {
            vm.reset(t)?;
        }
        // The kernel's own share differs a little from boot to boot; eight pages of 2 MiB are more.
        t.claim("the walker owns as much as before, but for 8 MiB", vm.owned + (8 << 20) >= owned);
    }
    let fate = vm.survey(t)?;
    outcome::judge(t, wish, &vm, &fate)?;
    let status = vm.power_off()?;
    t.claim("the VMM ends well when its guest is switched off", status.success());
    Ok(())
}

/// Errors in memory that nobody can touch meanwhile.
fn pause(t: &mut Trial, wish: &Wish) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    let mut candidates = BTreeSet::new();
    for number in 0..16 {
        candidates.insert(vm.locate(Use::Walker, number)?);
    }
    vm.steer("vm.pause")?;
    let mut frames = BTreeSet::new();
    for frame in candidates {
        if vm.fail(Use::Walker, frame)? {
            frames.insert(frame);
        }
    }
    // Not each of the sixteen comes to something while nobody touches what failed before: 11 and 14 were seen.
    t.claim("at least four frames failed", frames.len() >= 4);
    vm.steer("vm.resume")?;
    let fate = vm.settle(t, &frames)?;
    outcome::judge(t, wish, &vm, &fate)
}

/// A guest that does not take machine checks is told by a record, if it reads that before it touches the frame; what it touches before, it cannot get, and cannot be told.
fn mce_off(t: &mut Trial, wish: &Wish) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    vm.done(&Order::Hold)?;
    let frame = vm.fail_one(t, Use::Walker, 0)?;
    let judged = wish.vmm == Vmm::Pagemend;
    // The walker stands; whoever answers lives.
    let lives = vm.flags(frame).is_ok();
    t.saw("lives until it touches the frame", lives);
    if judged {
        t.claim("the guest lives until it touches the frame", lives);
    }
    if !lives {
        let fate = vm.survey(t)?;
        return outcome::measure(t, wish, &vm, &fate);
    }
    let fate = vm.go_and_survey(t, &[])?;
    outcome::measure(t, wish, &vm, &fate)?;
    if let (true, Fate::Lives(survey)) = (judged, &fate) {
        t.step("the guest had heard of the frame by a record");
        return outcome::lost_only(t, &vm, survey);
    }
    if judged {
        t.claim("the guest is started again rather than lied to", matches!(fate, Fate::StartedAgain));
        outcome::whole_again(t, &mut vm)?;
    }
    Ok(())
}

/// Two processors in two errors at one instant.
fn together(t: &mut Trial, wish: &Wish) -> Result<()> {
    if !kvm::recovers(wish.model)? {
        return refused(t, wish, 2);
    }
    let mut vm = Vm::start(t, wish)?;
    vm.done(&Order::Hold)?;
    let frames = [vm.fail_one(t, Use::Walker, 0)?, vm.fail_one(t, Use::Walker, 1)?];
    let mut fate = vm.go_and_survey(t, &frames)?;
    if let Fate::Lives(_) = fate {
        fate = vm.settle(t, &frames.into())?;
    }
    outcome::judge(t, wish, &vm, &fate)
}

/// What a kernel cannot do without: it may panic, and that is honest. What must not be is that it goes on with wrong bytes, that nobody can see why it started again, or that the machine is not whole afterwards.
fn kernel(t: &mut Trial, wish: &Wish, what: Use) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    let frame = vm.fail_one(t, what, 0)?;
    let fate = vm.settle(t, &[frame].into())?;
    outcome::measure(t, wish, &vm, &fate)?;
    if wish.vmm == Vmm::Qemu {
        return Ok(());
    }
    if let Fate::Lives(survey) = &fate {
        return outcome::lost_only(t, &vm, survey);
    }
    t.claim("the guest lives or is started again", matches!(fate, Fate::StartedAgain));
    outcome::whole_again(t, &mut vm)?;
    t.claim("the VMM reported the new start", vm.reported(|event| is(event, "reset")));
    let told = |event: &Value| is(event, "MEMORY_FAILURE") && event["recipient"] == "guest" && event["gpa"] == frame * 4096;
    t.claim("the VMM reported that its guest had to deal with the frame", vm.reported(told));
    Ok(())
}
