//! What there is to run, for whoever looks for a scenario. Those that fail on purpose are for the self-test, and only shown by name.

use crate::options::Options;
use crate::run::list;
use anyhow::Result;
use pagemend_lab_protocol::{ScenarioInfo, Set};
use std::fmt::Write;

/// The selected scenarios, or all, each with what it proves.
///
/// # Errors
/// The guest program does not build, or a name selects nothing.
pub fn listing(options: &Options) -> Result<String> {
    let mut scenarios = list(options)?;
    scenarios.retain(|s| s.set != Set::Broken || options.names.contains(&s.name));
    Ok(text(&scenarios))
}

fn text(scenarios: &[ScenarioInfo]) -> String {
    let mut text = String::new();
    let mut default = 0;
    for scenario in scenarios {
        let mark = if scenario.set == Set::Default {
            default += 1;
            " *"
        } else {
            ""
        };
        let _ = writeln!(text, "{}{mark}\n    {}", scenario.name, scenario.proves);
    }
    let _ = write!(
        text,
        "\n* in the default set: {default} of {}; --all runs the others, too",
        scenarios.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use pagemend_lab_protocol::Needs;

    #[test]
    fn what_runs_unless_said_otherwise_is_marked() {
        let scenario = |name: &str, set| ScenarioInfo {
            name: name.into(),
            proves: format!("{name} is so"),
            needs: Needs::NOTHING,
            set,
        };
        let all = [scenario("a/x", Set::Default), scenario("a/y", Set::All)];
        assert_eq!(
            text(&all),
            "a/x *\n    a/x is so\na/y\n    a/y is so\n\n* in the default set: 1 of 2; --all runs the others, too"
        );
    }
}
