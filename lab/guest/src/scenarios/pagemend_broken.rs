//! Menders that are wrong on purpose, each in its own way: what the other scenarios claim must catch every one of them. `cargo xtask lab --self-test` runs them and fails if one passes, or fails for another reason.

use crate::crowd::Crowd;
use crate::guest::{Guest, Kind};
use crate::memory::{self, KIB_4, Mapping};
use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use crate::inject;
use anyhow::Result;
use pagemend_lab_protocol::{ScenarioInfo, Set};

const BAD: usize = 0x5000;

/// What is wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sabotage {
    /// The lost frame reads zeros.
    NoPoison,
    /// A healthy frame was not salvaged.
    NoSalvage,
    /// Another frame than the lost one is told.
    WrongFrame,
}

inventory::submit! {
    Family(|| {
        let cases = [
            (Sabotage::NoPoison, "does-not-mark", "a mender that leaves zeros where bytes are lost is caught"),
            (Sabotage::NoSalvage, "does-not-salvage", "a mender that leaves zeros where bytes were healthy is caught"),
            (Sabotage::WrongFrame, "tells-the-wrong-frame", "a mender that tells another frame than the lost one is caught"),
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

/// Mends, then makes of it what the wrong mender would have left behind, and claims what every scenario claims.
fn broken(t: &mut Trial, sabotage: Sabotage) -> Result<()> {
    let guest = Guest::of(Kind::Hugetlb2M)?;
    let crowd = Crowd::start(&guest);
    inject::madvise_in_use(guest.base() + BAD)?;
    guest.pagemend.settle();
    crowd.finish(t, &[BAD]);
    let lost = match sabotage {
        Sabotage::NoPoison => zeros(guest.base() + BAD).map(|()| BAD)?,
        Sabotage::NoSalvage => zeros(guest.base() + 0x9000).map(|()| BAD)?,
        // Seen from the other side: what it tells is not what is lost.
        Sabotage::WrongFrame => BAD + KIB_4,
    };
    guest.lost_only(t, &[lost]);
    Ok(())
}

/// Fresh memory in the place of a frame.
fn zeros(address: usize) -> Result<()> {
    let fresh = Mapping::shared(memory::shmem(KIB_4)?, KIB_4, KIB_4)?;
    Ok(fresh.move_over(address)?)
}
