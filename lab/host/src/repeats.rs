//! What took more than one try because of the emulator. Nobody should take luck for health, so steps of the reports say it and the summary counts it.

use pagemend_lab_protocol::{Report, STARTED_AGAIN};

/// The step of a scenario that runs in another machine after this.
pub(crate) const RUN_AGAIN: &str = "run again, for its machine died of the emulator's timing";

/// A line with the counts, or nothing.
pub(crate) fn repeats(reports: &[Report]) -> String {
    let count = |beginning: &str| {
        reports
            .iter()
            .flat_map(|report| &report.steps)
            .filter(|step| step.starts_with(beginning))
            .count()
    };
    let counts = [
        ("guests started again", count(STARTED_AGAIN)),
        ("scenarios run again", count(RUN_AGAIN)),
    ];
    let said = counts.iter().filter(|(_, count)| *count > 0);
    let said: Vec<_> = said
        .map(|(what, count)| format!("{what}: {count}"))
        .collect();
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcomes::tests::report;

    #[test]
    fn each_further_try_is_counted() {
        let mut reports = ["vm-found/2m", "kernel/shmem/load"].map(|name| report(name, &[]));
        assert_eq!(repeats(&reports), "");
        let again = format!("{STARTED_AGAIN}: the guest does not come up");
        reports[0].steps = vec!["a guest".into(), again.clone(), "a guest".into(), again];
        assert_eq!(repeats(&reports), "guests started again: 2");
        reports[1].steps = vec![RUN_AGAIN.into()];
        assert_eq!(
            repeats(&reports),
            "guests started again: 2, scenarios run again: 1"
        );
    }
}
