//! Menders that are broken on purpose while they run, each in its own way: what the other scenarios claim must catch every one of them. `cargo xtask lab --self-test` runs them and fails if one passes, or fails for another reason.

use crate::crowd::Crowd;
use crate::guest::{Guest, Kind};
use crate::registry::{Family, Scenario};
use crate::sabotage::{self, BAD};
use crate::trial::Trial;
use crate::inject;
use anyhow::Result;
use pagemend_lab_protocol::{ScenarioInfo, Set};
use std::io;

/// Breaks the thread that calls it.
type Sabotage = fn() -> io::Result<()>;

inventory::submit! {
    Family(|| {
        let cases: [(Sabotage, _, _); 3] = [
            (sabotage::marks_nothing, "does-not-mark", "a mender whose marks of what is lost are not set is caught"),
            (sabotage::reads_zeros, "does-not-salvage", "a mender that puts zeros in the place of healthy bytes is caught"),
            (sabotage::takes_the_next_for_bad, "tells-the-wrong-frame", "a mender that marks and tells another frame than the lost one is caught"),
        ];
        cases.map(|(sabotage, name, proves)| Scenario {
            info: ScenarioInfo {
                name: format!("broken/mender-{name}"),
                proves: proves.into(),
                needs: Kind::Hugetlb2M.needs(1),
                set: Set::Broken,
            },
            run: Box::new(move |t| broken(t, sabotage)),
        }).into()
    })
}

/// One error under the crowd, as in the scenarios that must pass, and what they claim.
fn broken(t: &mut Trial, sabotage: Sabotage) -> Result<()> {
    let kind = Kind::Hugetlb2M;
    let guest = Guest::with(kind, kind.len(), |_, builder| builder.on_thread(sabotage))?;
    let crowd = Crowd::start(&guest);
    inject::madvise_in_use(guest.base() + BAD)?;
    crowd.go_on();
    guest.pagemend.settle();
    crowd.finish(t, &[BAD]);
    guest.lost_only(t, &[BAD]);
    Ok(())
}
