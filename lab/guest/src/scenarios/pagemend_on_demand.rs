//! A 1 GiB page that comes back in parts, under everybody who uses it, and with more errors meanwhile.

use crate::crowd::Crowd;
use crate::guest::{Guest, Kind};
use crate::inject;
use crate::memory::MIB_2;
use crate::pages;
use crate::registry::{Family, Scenario, scenario};
use crate::trial::Trial;
use anyhow::Result;
use pagemend::{Action, Filling, Step};
use pagemend_lab_protocol::{ScenarioInfo, Set};

inventory::submit! {
    Family(|| [(Filling::OnDemand, "on-demand"), (Filling::Eager, "eager")].map(|(filling, name)| Scenario {
        info: ScenarioInfo {
            name: format!("pagemend/hugetlb-1g/{name}"),
            proves: format!("a 1 GiB page that is mended {name} loses 4 KiB, and nothing besides, with four threads on it all the while"),
            needs: Kind::Hugetlb1G.needs(1),
            set: Set::All,
        },
        run: Box::new(move |t| one_error(t, filling)),
    }).into())
}

fn one_error(t: &mut Trial, filling: Filling) -> Result<()> {
    const BAD: usize = 300 * MIB_2 + 0x5000;
    let guest = Guest::configured(Kind::Hugetlb1G, |region| region.filling(filling), |_, builder| builder)?;
    let crowd = Crowd::start(&guest);
    inject::madvise_in_use(guest.base() + BAD)?;
    guest.pagemend.settle();
    crowd.go_on();
    crowd.finish(t, &[BAD]);
    guest.lost_only(t, &[BAD]);
    t.equal("what was done", guest.actions(), vec![Action::Mend]);
    let fills = guest.steps().into_iter().filter_map(|step| match step {
        Step::Fill { part, touched, .. } => Some((part.len() as usize / MIB_2, touched)),
        _ => None,
    });
    let fills: Vec<(usize, bool)> = fills.collect();
    t.saw("parts that were touched", fills.iter().filter(|(_, touched)| *touched).count());
    t.saw("parts filled in the background", fills.iter().filter(|(_, touched)| !*touched).count());
    // The crowd is on all of it all the while, and the last part is one of hundreds.
    let answered = fills.split_last().is_some_and(|(_, before)| before.iter().any(|(_, touched)| *touched));
    t.equal("whether one who waited had his part before the last came back", answered, filling == Filling::OnDemand);
    t.saw("2 MiB stretches in the largest", fills.iter().map(|(stretches, _)| *stretches).max().unwrap_or(0));
    let came_back: usize = fills.iter().map(|(stretches, _)| stretches * MIB_2).sum();
    t.equal("bytes that came back in parts", came_back, if filling == Filling::OnDemand { guest.len() } else { 0 });
    Ok(())
}

scenario! {
    name: "pagemend/hugetlb-1g/errors-on-demand",
    proves: "errors in parts of a 1 GiB page that are missing, and in parts that are back while others are missing, lose their 4 KiB each",
    set: All,
    needs: Kind::Hugetlb1G.needs(1),
    run: |t| {
        // The first is met; of the second nobody hears, because the page is gone already; the third hits what is back.
        let bad = [0x5000, 400 * MIB_2 + 0x7000, 0x9000];
        let guest = Guest::with(Kind::Hugetlb1G, Kind::Hugetlb1G.len(), |base, builder| {
            let missing = pages::frame(base + bad[1]).ok().flatten();
            let mut done = [false; 2];
            builder.listen("more errors", move |event| match &event.step {
                Step::Cover if !done[0] => {
                    done[0] = true;
                    // It says that the page is bad already.
                    let _ = missing.map(inject::corrupt_frame);
                }
                Step::Fill { touched: false, .. } if !done[1] => {
                    done[1] = true;
                    // The first stretch, which was touched, has 4 KiB pages by now.
                    let frame = pages::frame(base + bad[2]).ok().flatten();
                    let _ = frame.map(inject::corrupt_frame);
                }
                _ => {}
            })
        })?;
        let crowd = Crowd::start(&guest);
        inject::madvise_in_use(guest.base() + bad[0])?;
        guest.pagemend.settle();
        crowd.go_on();
        guest.pagemend.settle();
        let mut lost = bad.to_vec();
        lost.sort_unstable();
        crowd.finish(t, &lost);
        guest.lost_only(t, &lost);
        t.claim("the first was mended", guest.actions().first() == Some(&Action::Mend));
        t.equal("pages that are not complete", guest.pagemend.progress().len(), 0);
        Ok(())
    },
}
