//! A stock Linux guest that is told of what it has not touched as firmware would: by error records, which it polls, with machine checks and without.

use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use crate::vm::events::{self, Events, is};
use crate::vm::kvm::{self, MCG_CMCI_P, MCG_LMCE_P, MCG_SER_P};
use crate::vm::wish::{Backing, Model, Notify, Vmm, Wish};
use crate::vm::{Vm, outcome};
use anyhow::Result;
use pagemend_lab_protocol::walker::{Order, Use};
use pagemend_lab_protocol::{ScenarioInfo, Set};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Bytes that a page has which is mended at once.
const HUGE: u64 = 2 << 20;
/// On the guest's command line: no machine checks.
const OFF: &str = "mce=off";

inventory::submit! {
    Family(|| {
        use Backing::{Huge1G, Huge2M, Small};
        use Model::{Amd, Intel};
        use Notify::{Auto, Ghes};
        let found = [
            (wish(Huge2M, Amd, Ghes), Set::Default),
            (wish(Huge2M, Amd, Auto), Set::All),
            (wish(Huge2M, Intel, Ghes), Set::All),
            (wish(Huge2M, Intel, Auto), Set::All),
            (wish(Huge1G, Amd, Ghes), Set::All),
            (wish(Huge1G, Intel, Auto), Set::All),
            (wish(Small, Amd, Ghes), Set::All),
        ];
        let found = found.map(|(wish, set)| scenario("found", wish, set, ["errors that a scrubber finds in", COST], |t, w| told(t, w, 4)));
        let without = [
            wish(Huge2M, Amd, Ghes),
            wish(Huge2M, Amd, Auto),
            wish(Huge2M, Intel, Ghes),
            wish(Huge2M, Intel, Auto),
            wish(Huge1G, Amd, Auto),
            wish(Huge1G, Intel, Ghes),
        ];
        let without = without.map(|wish| {
            let wish = Wish { parameters: OFF, ..wish };
            scenario("mce-off", wish, Set::All, ["with its machine checks off, errors in", COST], |t, w| told(t, w, 4))
        });
        let many = [(Huge2M, Amd), (Huge1G, Intel)].map(|(backing, model)| {
            let wish = Wish { vcpus: 2, ..wish(backing, model, Ghes) };
            scenario("64-in-a-row", wish, Set::All, ["64 errors in a row in", COST], |t, w| told(t, w, 64))
        });
        found.into_iter().chain(without).chain(many).collect()
    })
}

/// What errors come to that a guest is told of.
pub(crate) const COST: &str = "cost it the failed frames alone, its kernel knows of them and no others, and it goes on";

/// A machine whose guest touches nothing that has failed before its kernel knows.
pub(crate) fn wish(backing: Backing, model: Model, notify: Notify) -> Wish {
    let wish = Wish::new(Vmm::Pagemend, backing, model, 1);
    Wish { notify, ..wish }
}

pub(crate) fn scenario(
    family: &str,
    wish: Wish,
    set: Set,
    [before, after]: [&str; 2],
    run: fn(&mut Trial, &Wish) -> Result<()>,
) -> Scenario {
    let (machine, notify) = (wish.machine(), wish.notify.name());
    Scenario {
        info: ScenarioInfo {
            name: format!("ghes-{family}/{machine}/{notify}"),
            proves: format!("{before} a guest on {machine} ({notify}) {after}"),
            needs: wish.needs(),
            set,
        },
        run: Box::new(move |t| run(t, &wish)),
    }
}

/// Whether the guest is to be told by records: where it is left to the VMM, a machine check is better for a guest that takes it at once.
fn by_records(wish: &Wish) -> Result<bool> {
    let at_once = wish.model == Model::Intel && kvm::recovers(wish.model)? && wish.parameters != OFF;
    Ok(wish.notify == Notify::Ghes || !at_once)
}

/// Errors that nobody touches before the guest's kernel has spoken of them.
pub(crate) fn told(t: &mut Trial, wish: &Wish, errors: usize) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    vm.done(&Order::Hold)?;
    let mut events = vm.events()?;
    t.saw("guest before", vm.info()?["guest"].take());
    let frames = fail(t, &mut vm, &mut events, errors)?;
    let records = by_records(wish)?;
    if records {
        in_order(t, &mut events, &frames)?;
    }
    vm.log("recovery action for", frames.len())?;
    let fate = vm.go_and_survey(t, &[])?;
    outcome::judge(t, wish, &vm, &fate)?;
    let info = vm.info()?;
    capability(t, wish, &info, records)?;
    if records {
        let told = &info["told"];
        let failed = frames.len();
        t.equal("frames of which the guest has read", &told["records"]["read"], &json!(failed));
        let checks = [&told["machine_checks"]["required"], &told["machine_checks"]["optional"]];
        t.equal("frames told by machine checks", checks, [&json!(0), &json!(0)]);
        t.equal("bytes that the guest was not told of", &info["memory"]["untold_bytes"], &json!(0));
    }
    Ok(())
}

/// Frames of the walker, each in a huge page of its own: of an error in what was mended the kernel tells nobody.
#[derive(Default)]
pub(crate) struct Apart {
    number: u64,
    pages: BTreeSet<u64>,
}

impl Apart {
    /// The next one.
    pub(crate) fn next(&mut self, vm: &mut Vm) -> Result<u64> {
        loop {
            let frame = vm.locate(Use::Walker, self.number)?;
            self.number += 1;
            if self.pages.insert(frame * 4096 / HUGE) {
                return Ok(frame);
            }
        }
    }

    /// Makes the next one fail that can.
    pub(crate) fn fail(&mut self, vm: &mut Vm, events: &mut Events) -> Result<u64> {
        loop {
            let frame = self.next(vm)?;
            if fail_one(vm, events, frame)? {
                return Ok(frame);
            }
        }
    }
}

/// Makes a frame fail, and returns when the VMM has recorded it and the page is there again: of two signals the kernel keeps one, and what is missing cannot fail. False where the host's kernel does not take it away.
pub(crate) fn fail_one(vm: &mut Vm, events: &mut Events, frame: u64) -> Result<bool> {
    if !vm.fail(Use::Walker, frame)? {
        return Ok(false);
    }
    let record = events.until(|event| recorded(&event["detail"], frame))?;
    if record["detail"]["page"]["len"].as_u64() > Some(HUGE) {
        events.until(|event| event["detail"]["step"] == "complete")?;
    }
    Ok(true)
}

/// Makes frames of the walker fail.
pub(crate) fn fail(t: &mut Trial, vm: &mut Vm, events: &mut Events, errors: usize) -> Result<BTreeSet<u64>> {
    t.step(format!("{errors} errors"));
    let mut apart = Apart::default();
    (0..errors).map(|_| apart.fail(vm, events)).collect()
}

fn recorded(step: &Value, frame: u64) -> bool {
    let lost = step["lost"].as_array().into_iter().flatten();
    step["step"] == "record" && lost.into_iter().any(|range| range["start"] == frame * 4096)
}

/// Takes what was heard, and listens on, until the guest has read of these frames, and claims that each record was read before the next was there.
fn in_order(t: &mut Trial, events: &mut Events, frames: &BTreeSet<u64>) -> Result<()> {
    let read = |events: &Events| events.of("record-read").flat_map(events::frames).count();
    while read(events) < frames.len() {
        events.until(|event| is(event, "record-read"))?;
    }
    let (mut posted, mut read) = (Vec::new(), Vec::new());
    let mut one_at_a_time = true;
    for event in &events.heard {
        let named = events::frames(event);
        if is(event, "record-posted") {
            one_at_a_time &= posted.len() == read.len();
            posted.extend(named);
        } else if is(event, "record-read") {
            one_at_a_time &= posted[read.len()..] == named;
            read.extend(named);
        }
    }
    t.saw("records", events.of("record-read").count());
    t.claim("each record was read before the next was there", one_at_a_time);
    let told: BTreeSet<u64> = read.iter().copied().collect();
    t.equal("frames told once", (read.len(), &told), (frames.len(), frames));
    Ok(())
}

/// Claims that the VMM knows what its guest offers, asked for and has taken.
fn capability(t: &mut Trial, wish: &Wish, info: &Value, records: bool) -> Result<()> {
    let guest = &info["guest"];
    let intel = wish.model == Model::Intel;
    let supported = kvm::machine_checks()?;
    let has = |bit| intel && supported & bit != 0;
    let offered = json!({
        "vendor": wish.model.name(),
        "ser": has(MCG_SER_P),
        "lmce": has(MCG_LMCE_P),
        "cmci": has(MCG_CMCI_P),
        "succor": !intel,
    });
    t.equal("what the guest's processors offer", &guest["offered"], &offered);
    t.equal("whether it asked for error records by _OSC", &guest["osc_apei"], &json!(true));
    let (way, condition) = if records { ("ghes", "acknowledged") } else { ("mce", "untried") };
    t.equal("how it is told", &guest["way"], &json!(way));
    let sources = json!([{ "id": 0, "condition": condition }]);
    t.equal("its sources of records", &guest["sources"], &sources);
    Ok(())
}
