//! Where scenarios are found. They register themselves, so adding one touches only the file that it is in.

use crate::trial::Trial;
use anyhow::Result;
use pagemend_lab_protocol::ScenarioInfo;

/// What a scenario does. An error ends it, as a failure or as a skip.
type Run = Box<dyn Fn(&mut Trial) -> Result<()>>;

/// A scenario: what it says of itself, and what it does.
pub(crate) struct Scenario {
    pub(crate) info: ScenarioInfo,
    pub(crate) run: Run,
}

/// A function that yields scenarios: one, or a whole matrix.
pub(crate) struct Family(pub(crate) fn() -> Vec<Scenario>);

inventory::collect!(Family);

/// All scenarios, by name.
pub(crate) fn all() -> Vec<Scenario> {
    let mut scenarios: Vec<_> = inventory::iter::<Family>()
        .flat_map(|family| (family.0)())
        .collect();
    scenarios.sort_by(|a, b| a.info.name.cmp(&b.info.name));
    scenarios
}

/// Writes down one scenario.
macro_rules! scenario {
    (name: $name:literal, proves: $proves:literal, $(set: $set:ident,)? needs: $needs:expr, run: $run:expr $(,)?) => {
        inventory::submit! {
            $crate::registry::Family(|| vec![$crate::registry::Scenario {
                info: pagemend_lab_protocol::ScenarioInfo {
                    name: $name.into(),
                    proves: $proves.into(),
                    needs: $needs,
                    set: $crate::registry::scenario!(@set $($set)?),
                },
                run: Box::new($run),
            }])
        }
    };
    (@set) => { pagemend_lab_protocol::Set::Default };
    (@set $set:ident) => { pagemend_lab_protocol::Set::$set };
}
pub(crate) use scenario;

#[cfg(test)]
mod tests {
    #[test]
    fn scenario_names_are_unique_and_have_a_family() {
        let names: Vec<_> = super::all().into_iter().map(|s| s.info.name).collect();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(names.iter().all(|name| name.contains('/')));
    }
}
