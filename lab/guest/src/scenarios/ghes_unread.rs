//! Guests that leave error records unread: for a moment, in which more errors come, or for ever. Nothing is lost by it, and the VMM says so.

use crate::registry::Family;
use crate::scenarios::ghes::{Apart, COST, fail, fail_one, scenario, wish};
use crate::trial::Trial;
use crate::vm::events::{Events, frames, is};
use crate::vm::wish::{Backing, Model, Notify, Wish};
use crate::vm::{Vm, outcome};
use anyhow::{Result, bail};
use pagemend_lab_protocol::Set;
use pagemend_lab_protocol::walker::Order;
use serde_json::json;

/// On the guest's command line: HEST is not looked at, although error records are asked for.
const IGNORES: &str = "hest_disable";
/// On the guest's command line: error records are not asked for, nor looked at.
const DECLINES: &str = "ghes.disable=1";

inventory::submit! {
    Family(|| {
        use Notify::{Auto, Ghes};
        let wish = |notify| wish(Backing::Huge2M, Model::Amd, notify);
        let ignores = |notify| Wish { parameters: IGNORES, ..wish(notify) };
        let declines = Wish { parameters: DECLINES, ..wish(Auto) };
        vec![
            scenario("unacked", wish(Ghes), Set::All, ["while a record is unread, an error in", COST], unacked),
            scenario("ignored", ignores(Ghes), Set::All, ["although it ignores its records, an error in", COST], ignored),
            scenario("ignored", ignores(Auto), Set::All, ["although it ignores its records, an error in", COST], rerouted),
            scenario("declined", declines, Set::All, ["although it wants no records, errors in", COST], declined),
        ]
    })
}

/// An error while the record of another is unread: the machine stands meanwhile, so that it stays so.
fn unacked(t: &mut Trial, wish: &Wish) -> Result<()> {
    /// The guest may read in the moment before the machine stands, but not always.
    const TRIES: usize = 20;
    let mut vm = Vm::start(t, wish)?;
    vm.done(&Order::Hold)?;
    let mut events = vm.events()?;
    let (mut apart, mut all) = (Apart::default(), Vec::new());
    for _ in 0..TRIES {
        // A guest that stands cannot be asked for a frame.
        let second = apart.next(&mut vm)?;
        let first = apart.fail(&mut vm, &mut events)?;
        all.push(first);
        while !names(&events, "record-posted", first) {
            events.until(|event| is(event, "record-posted"))?;
        }
        vm.steer("vm.pause")?;
        events.until(|event| is(event, "pause"))?;
        if names(&events, "record-read", first) || !fail_one(&mut vm, &mut events, second)? {
            vm.steer("vm.resume")?;
            continue;
        }
        all.push(second);
        let untold = &vm.info()?["memory"]["untold_bytes"];
        t.equal("bytes that wait to be told while a record is unread", untold, &json!(2 * 4096));
        vm.steer("vm.resume")?;
        let next = events.until(|event| is(event, "record-posted") || is(event, "record-read"))?;
        t.equal("what comes next is that the guest has read the record", (&next["event"], frames(&next)), (&json!("record-read"), vec![first]));
        let next = events.until(|event| is(event, "record-posted"))?;
        t.equal("then the one that waited is there", frames(&next), vec![second]);
        events.until(|event| is(event, "record-read"))?;
        vm.log("recovery action for", all.len())?;
        let fate = vm.go_and_survey(t, &[])?;
        return outcome::judge(t, wish, &vm, &fate);
    }
    bail!("the guest has read each of {TRIES} records at once")
}

/// Whether a record with this frame was heard of.
fn names(events: &Events, name: &'static str, frame: u64) -> bool {
    events.of(name).flat_map(frames).any(|named| named == frame)
}

/// A guest that has a source of records and never looks: that is reported, nothing is forgotten, and what it touches it is told of at once.
fn ignored(t: &mut Trial, wish: &Wish) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    vm.done(&Order::Hold)?;
    let mut events = vm.events()?;
    fail(t, &mut vm, &mut events, 1)?;
    let unread = events.until(|event| is(event, "records-unread"))?;
    t.equal("frames that the guest has not read of", &unread["frames"], &json!(1));
    let info = vm.info()?;
    t.equal("bytes that wait to be told", &info["memory"]["untold_bytes"], &json!(4096));
    t.equal("the source's condition", &info["guest"]["sources"][0]["condition"], &json!("ignored"));
    let silence = vm.log("recovery action for", 0)?;
    t.equal("what the guest's kernel says of its memory", silence, vec![]);
    let fate = vm.go_and_survey(t, &[])?;
    outcome::judge(t, wish, &vm, &fate)?;
    t.equal("frames told as they were touched", &vm.info()?["told"]["machine_checks"]["required"], &json!(1));
    Ok(())
}

/// The same guest, where the VMM may choose: it tells by a machine check instead.
fn rerouted(t: &mut Trial, wish: &Wish) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    vm.done(&Order::Hold)?;
    let mut events = vm.events()?;
    fail(t, &mut vm, &mut events, 1)?;
    events.until(|event| is(event, "records-unread"))?;
    let moved = events.until(|event| is(event, "rerouted"))?;
    t.equal("what is told by another way, and which", (&moved["frames"], &moved["to"]), (&json!(1), &json!("mce")));
    vm.log("recovery action for", 1)?;
    let fate = vm.go_and_survey(t, &[])?;
    outcome::judge(t, wish, &vm, &fate)?;
    let told = &vm.info()?["told"];
    t.equal("frames told by machine checks before they were touched", &told["machine_checks"]["optional"], &json!(1));
    t.equal("frames whose record was taken back", &told["records"]["withdrawn"], &json!(1));
    Ok(())
}

/// A guest that says that it wants no records is told by machine checks from the first.
fn declined(t: &mut Trial, wish: &Wish) -> Result<()> {
    let mut vm = Vm::start(t, wish)?;
    vm.done(&Order::Hold)?;
    let mut events = vm.events()?;
    let frames = fail(t, &mut vm, &mut events, 4)?;
    vm.log("recovery action for", frames.len())?;
    let fate = vm.go_and_survey(t, &[])?;
    outcome::judge(t, wish, &vm, &fate)?;
    let info = vm.info()?;
    t.equal("whether it asked for error records by _OSC", &info["guest"]["osc_apei"], &json!(false));
    t.equal("how it is told", &info["guest"]["way"], &json!("mce"));
    t.equal("frames in records", &info["told"]["records"]["posted"], &json!(0));
    Ok(())
}
