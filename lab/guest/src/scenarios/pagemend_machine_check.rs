//! Errors that the hardware reports, as far as the kernel can tell: machine checks.

use crate::guest::{Guest, Kind};
use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use crate::{inject, pages};
use anyhow::{Context, Result};
use pagemend_lab_protocol::{Cpu, ScenarioInfo, Set};

inventory::submit! {
    Family(|| {
        [Kind::Hugetlb2M, Kind::Shmem, Kind::AnonymousThp].into_iter().flat_map(|kind| {
            [(false, "scrubber", "a scrubber's machine check"), (true, "load", "a load's machine check")]
                .map(|(load, name, what)| Scenario {
                    info: ScenarioInfo {
                        name: format!("pagemend/{}/{name}", kind.name()),
                        proves: format!("{what} in {} under pagemend loses 4 KiB, which are told, and nothing besides", kind.kind()),
                        needs: kind.needs(1).cpu(Cpu::Intel).tries(if load { 10 } else { 1 }),
                        set: Set::Default,
                    },
                    run: Box::new(move |t| machine_check(t, kind, load)),
                })
        }).collect()
    })
}

fn machine_check(t: &mut Trial, kind: Kind, load: bool) -> Result<()> {
    let guest = Guest::of(kind)?;
    let bad = guest.len() / 2 + 0x2_1000;
    let frame = pages::frame(guest.base() + bad)?.context("nothing is mapped there")?;
    if load {
        let fault = inject::load_error(t, guest.base() + bad, frame)?;
        t.equal("the loading thread gets", fault.code, libc::BUS_MCEERR_AR);
    } else {
        inject::scrubber(t, frame)?;
    }
    guest.lost_only(t, &[bad]);
    t.equal("what was done", guest.actions(), vec![kind.action()]);
    Ok(())
}
