//! Which scenarios run, and which of them share a boot: those with the same processor and the same things on board, as long as the huge pages that they may lose fit into one machine.

use anyhow::{Context, Result, bail};
use globset::Glob;
use pagemend_lab_protocol::{Cpu, ScenarioInfo, Set};
use std::collections::BTreeMap;

/// Memory of a machine besides huge pages, in MiB.
const BASE: u32 = 1536;

/// As much again where 1 GiB pages are wanted: the first GiB, the hole below 4 GiB and the initramfs each spoil one.
const SPOILT: u32 = 2048;

/// As much again where virtual machines run: what they are made from, their memory where it is not of huge pages, and what replaces it.
const GUESTS: u32 = 1536;

/// Scenarios for one boot, in order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Batch {
    pub(crate) cpu: Cpu,
    /// Whether the machine carries what runs virtual machines.
    pub(crate) guests: bool,
    pub(crate) scenarios: Vec<ScenarioInfo>,
    /// What the first of them did in a machine before this one, if it is run again.
    pub(crate) before: Vec<String>,
}

impl Batch {
    /// 1 GiB pages to reserve at boot.
    pub(crate) fn huge_1g(&self) -> u32 {
        self.scenarios.iter().map(|s| s.needs.huge_1g).sum()
    }

    fn memory_with(&self, scenario: &ScenarioInfo) -> u32 {
        let mut more = self.clone();
        more.scenarios.push(scenario.clone());
        more.memory()
    }

    /// MiB that the machine gets.
    pub(crate) fn memory(&self) -> u32 {
        let spoilt = if self.huge_1g() > 0 { SPOILT } else { 0 };
        let guests = if self.guests { GUESTS } else { 0 };
        BASE + spoilt + guests + self.scenarios.iter().map(appetite).sum::<u32>()
    }
}

/// MiB of huge pages that a scenario may use up.
fn appetite(scenario: &ScenarioInfo) -> u32 {
    scenario.needs.huge_1g * 1024 + scenario.needs.huge_2m * 2
}

/// The scenarios that the names select, or the default ones.
pub(crate) fn select(
    scenarios: Vec<ScenarioInfo>,
    names: &[String],
    all: bool,
) -> Result<Vec<ScenarioInfo>> {
    if names.is_empty() {
        let wanted = |set| set == Set::Default || (all && set == Set::All);
        return Ok(scenarios.into_iter().filter(|s| wanted(s.set)).collect());
    }
    let mut selected = Vec::new();
    for name in names {
        let matcher = Glob::new(name)
            .with_context(|| format!("cannot understand `{name}`"))?
            .compile_matcher();
        // A wildcard does not mean the scenarios that fail on purpose.
        let fits = |s: &&ScenarioInfo| {
            matcher.is_match(&s.name) && (s.set != Set::Broken || s.name == *name)
        };
        let before = selected.len();
        selected.extend(scenarios.iter().filter(fits).cloned());
        if selected.len() == before {
            bail!("no scenario fits `{name}`; --list shows what there is");
        }
    }
    selected.sort_by(|a, b| a.name.cmp(&b.name));
    selected.dedup();
    Ok(selected)
}

/// Puts scenarios together into boots of at most `memory` MiB.
pub(crate) fn batches(scenarios: Vec<ScenarioInfo>, memory: u32) -> Vec<Batch> {
    let mut alone = Vec::new();
    let mut by_machine: BTreeMap<(Cpu, bool), Vec<Batch>> = BTreeMap::new();
    for scenario in scenarios {
        let (cpu, guests) = (scenario.needs.cpu, scenario.needs.guests);
        let single = |scenario| Batch {
            cpu,
            guests,
            scenarios: vec![scenario],
            before: Vec::new(),
        };
        if scenario.needs.alone {
            alone.push(single(scenario));
            continue;
        }
        let batches = by_machine.entry((cpu, guests)).or_default();
        match batches
            .iter_mut()
            .find(|batch| batch.memory_with(&scenario) <= memory)
        {
            Some(batch) => batch.scenarios.push(scenario),
            None => batches.push(single(scenario)),
        }
    }
    by_machine.into_values().flatten().chain(alone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagemend_lab_protocol::Needs;

    fn scenario(name: &str, needs: Needs) -> ScenarioInfo {
        ScenarioInfo {
            name: name.into(),
            proves: "something".into(),
            needs,
            set: Set::Default,
        }
    }

    #[test]
    fn scenarios_share_a_boot_until_the_memory_is_full() {
        let scenarios = ["a", "b", "c"].map(|name| scenario(name, Needs::NOTHING.huge_1g(1)));
        let batches = batches(scenarios.into(), BASE + SPOILT + 2048);
        let sizes: Vec<_> = batches.iter().map(|batch| batch.scenarios.len()).collect();
        assert_eq!(sizes, [2, 1]);
    }

    #[test]
    fn another_processor_or_load_or_the_wish_to_be_alone_makes_another_boot() {
        let scenarios = vec![
            scenario("a", Needs::NOTHING),
            scenario("b", Needs::NOTHING.cpu(Cpu::Intel)),
            scenario("c", Needs::NOTHING.alone()),
            scenario("d", Needs::NOTHING),
            scenario("e", Needs::NOTHING.guests()),
        ];
        assert_eq!(batches(scenarios, 4096).len(), 4);
    }

    #[test]
    fn a_scenario_too_large_for_the_limit_still_gets_a_boot() {
        let batches = batches(vec![scenario("a", Needs::NOTHING.huge_1g(9))], 1);
        assert_eq!(batches[0].memory(), BASE + SPOILT + 9 * 1024);
    }

    #[test]
    fn a_wildcard_does_not_mean_what_fails_on_purpose() {
        let mut broken = scenario("broken/x", Needs::NOTHING);
        broken.set = Set::Broken;
        let all = vec![scenario("a/x", Needs::NOTHING), broken];
        let select = |name: &str| select(all.clone(), &[name.to_owned()], false);
        assert_eq!(select("*").unwrap().len(), 1);
        assert_eq!(select("broken/x").unwrap().len(), 1);
        assert!(select("nothing/*").is_err());
    }
}
