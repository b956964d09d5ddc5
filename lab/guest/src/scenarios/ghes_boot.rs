//! A guest that starts again after errors, and finds in its tables (BERT) what it had lost.

use crate::registry::Family;
use crate::scenarios::ghes::{fail, scenario, wish};
use crate::trial::Trial;
use crate::vm::wish::{Backing, Model, Notify, Wish};
use crate::vm::{Fate, Vm, outcome};
use anyhow::{Context, Result};
use pagemend_lab_protocol::Set;
use pagemend_lab_protocol::walker::Order;
use std::collections::BTreeSet;

/// What Linux says before it prints them (`bert_print_all`, drivers/acpi/apei/bert.c).
const FOUND: &str = "BERT: Error records from previous boot";

inventory::submit! {
    Family(|| {
        use Notify::{Auto, Ghes};
        let amd = |notify| wish(Backing::Huge2M, Model::Amd, notify);
        let intel = wish(Backing::Huge1G, Model::Intel, Ghes);
        vec![
            scenario("previous-boot", amd(Auto), Set::Default, ["started again by itself after errors,", "finds exactly those frames in its tables, and has all of its memory again"], |t, w| started_again(t, w, true).map(drop)),
            scenario("previous-boot", amd(Ghes), Set::All, ["started again by its VMM after errors,", "finds exactly those frames in its tables, has all of its memory again, and does not find them at the next start"], twice_again),
            scenario("previous-boot", intel, Set::All, ["started again by itself after errors,", "finds exactly those frames in its tables, and has all of its memory again"], |t, w| started_again(t, w, true).map(drop)),
        ]
    })
}

fn started_again(t: &mut Trial, wish: &Wish, by_guest: bool) -> Result<Vm> {
    let mut vm = Vm::start(t, wish)?;
    let before = vm.log(FOUND, 0)?;
    t.equal("what the first boot says of one before", before, vec![]);
    vm.done(&Order::Hold)?;
    let mut events = vm.events()?;
    let frames = fail(t, &mut vm, &mut events, 8)?;
    vm.log("recovery action for", frames.len())?;
    start_again(t, &mut vm, by_guest)?;
    vm.log(FOUND, 1)?;
    let named = vm.log("physical_address: 0x", 0)?;
    let named: Result<BTreeSet<u64>> = named.iter().map(|line| frame(line)).collect();
    t.equal("frames in the records of the boot before", named?, frames);
    let fate = vm.survey(t)?;
    outcome::judge(t, wish, &vm, &fate)?;
    t.claim("the guest lives", matches!(fate, Fate::Lives(_)));
    Ok(vm)
}

/// What was told after one start is not told after the next.
fn twice_again(t: &mut Trial, wish: &Wish) -> Result<()> {
    let mut vm = started_again(t, wish, false)?;
    start_again(t, &mut vm, false)?;
    let again = vm.log(FOUND, 0)?;
    t.equal("what a boot after one without errors says of it", again, vec![]);
    Ok(())
}

fn start_again(t: &mut Trial, vm: &mut Vm, by_guest: bool) -> Result<()> {
    t.step(format!("a new start, by the {}", if by_guest { "guest" } else { "VMM" }));
    match by_guest {
        true => vm.restart(t),
        false => vm.reset(t),
    }
}

/// The frame in `physical_address: 0x0000000012345000`.
fn frame(line: &str) -> Result<u64> {
    let (_, digits) = line.split_once("physical_address: 0x").context("a line without an address")?;
    let address = u64::from_str_radix(digits.trim(), 16);
    Ok(address.with_context(|| format!("no address: {line}"))? / 4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_name_an_address() {
        let line = "[Hardware Error]:   physical_address: 0x0000000012345000";
        assert_eq!(frame(line).unwrap(), 0x12345);
        assert!(frame("physical_address: 0xwhat").is_err());
    }
}
