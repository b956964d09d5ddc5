//! Bad luck that repeats: several errors in one page, errors while one is being mended, errors in what was mended, until nothing of the pool is left.

use crate::crowd::Crowd;
use crate::guest::{Guest, Kind};
use crate::memory::{GIB_1, KIB_4, MIB_2};
use crate::pages::{self, Pool};
use crate::registry::{Family, Scenario, scenario};
use crate::toll::Toll;
use crate::trial::Trial;
use crate::{faults, inject, raw_list};
use anyhow::{Context, Result};
use pagemend::{Action, Reason, Step};
use pagemend_lab_protocol::{Needs, ScenarioInfo, Set};
use std::sync::{Arc, Mutex};

/// So many frames of each of so many pages, no two of them side by side.
fn spread(page: usize, pages: usize, errors: usize) -> Vec<usize> {
    let each = errors / pages;
    let step = page / KIB_4 / each;
    let inside = |start| (0..each).map(move |error| start + (error * step + step / 2) * KIB_4);
    (0..pages).flat_map(|number| inside(number * page)).collect()
}

inventory::submit! {
    Family(|| {
        let cases = [
            (Kind::Hugetlb2M, 1, 8, Set::Default),
            (Kind::Hugetlb2M, 1, 64, Set::Default),
            (Kind::Hugetlb2M, 1, 512, Set::Default),
            (Kind::Hugetlb2M, 4, 8, Set::Default),
            (Kind::Hugetlb2M, 8, 64, Set::Default),
            (Kind::Hugetlb1G, 1, 8, Set::All),
            (Kind::Hugetlb1G, 1, 64, Set::All),
            (Kind::Hugetlb1G, 2, 8, Set::All),
            (Kind::Hugetlb1G, 2, 64, Set::All),
        ];
        cases.map(|(kind, pages, errors, set)| {
            let (name, place) = match pages {
                1 => (String::new(), "one page".to_owned()),
                _ => (format!("-in-{pages}-pages"), format!("{pages} pages, as many in each,")),
            };
            Scenario {
                info: ScenarioInfo {
                    name: format!("pagemend/{}/{errors}-errors{name}", kind.name()),
                    proves: format!(
                        "{errors} errors in {place} of {}, all but one of them while the first is being mended, lose {errors} times 4 KiB",
                        kind.kind(),
                    ),
                    needs: needs(kind, pages as u32),
                    set,
                },
                run: Box::new(move |t| many_errors(t, kind, pages, errors)),
            }
        }).into()
    })
}

/// New memory for each page, and time for it, and as many pages for a process without pagemend, which loses them.
fn needs(kind: Kind, pages: u32) -> Needs {
    let both = kind.needs(2 * pages);
    match kind {
        Kind::Hugetlb1G => both.huge_2m(pages * both.huge_2m).seconds(pages * both.seconds),
        _ => both,
    }
}

/// The frames behind these offsets, before anything has failed.
fn frames(base: usize, offsets: &[usize]) -> Vec<u64> {
    offsets.iter().filter_map(|offset| pages::frame(base + offset).ok()?).collect()
}

/// All of them in a process without pagemend.
fn without_pagemend(kind: Kind, len: usize, bad: &[usize]) -> Result<Toll> {
    Toll::of_the_kernel_alone(kind, len, bad, |base| {
        let rest = frames(base, &bad[1..]);
        inject::madvise_in_use(base + bad[0])?;
        // Of a page that is bad already the kernel says so.
        rest.into_iter().for_each(|frame| drop(inject::corrupt_frame(frame)));
        Ok(())
    })
}

fn many_errors(t: &mut Trial, kind: Kind, pages: usize, errors: usize) -> Result<()> {
    inject::available()?;
    let bad = spread(kind.page(), pages, errors);
    let more = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&more);
    let len = kind.len().max(pages * kind.page());
    let alone = without_pagemend(kind, len, &bad)?;
    alone.tell(t, "kernel alone");
    t.equal("bytes that the kernel alone takes", alone.lost_bytes, pages * kind.page());
    let guest = Guest::with(kind, len, |base, builder| {
        let mut rest = frames(base, &bad[1..]);
        let pause = move |_| {
            // Of all but the first in each page the kernel says that the page is bad already.
            let said = rest.drain(..).filter_map(|frame| inject::corrupt_frame(frame).err());
            theirs.lock().map_err(|e| e.to_string())?.extend(said.filter_map(|error| error.raw_os_error()));
            Ok(())
        };
        builder.pause_hooks(pause, |_| ())
    })?;
    let crowd = Crowd::start(&guest);
    inject::madvise_in_use(guest.base() + bad[0])?;
    guest.pagemend.settle();
    let said = more.lock().map(|said| said.len()).unwrap_or_default();
    t.saw("errors of which the kernel says that the page is bad already", said);
    // What nobody was told of is met by the crowd.
    crowd.go_on();
    let all_of_it = bad.len() * KIB_4 == pages * kind.page();
    let done = if all_of_it { Action::Abandon } else { Action::Mend };
    let met = crowd.finish(t, &bad);
    Toll::under_pagemend(&guest, &met, &bad).tell(t, "pagemend");
    guest.lost_only(t, &bad);
    t.equal("what was done", guest.actions(), vec![done; pages]);
    Ok(())
}

scenario! {
    name: "pagemend/errors-after-salvage",
    proves: "an error in the old page after its bytes were salvaged loses nothing more",
    needs: Kind::Hugetlb2M.needs(1),
    run: |t| {
        const BAD: usize = 0x5000;
        inject::available()?;
        let memory = Guest::filled(Kind::Hugetlb2M, 2 * MIB_2)?;
        let late = pages::frame(memory.as_ptr() as usize + 0x9000)?.context("it is mapped")?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let theirs = Arc::clone(&said);
        let guest = Guest::on(memory, |_, builder| {
            builder.listen("a second error", move |event| {
                if matches!(event.step, Step::Salvage { .. }) {
                    let answer = inject::corrupt_frame(late).err().and_then(|error| error.raw_os_error());
                    theirs.lock().expect("nobody panics with it").push(answer);
                }
            })
        })?;
        let corrupted = pages::hardware_corrupted();
        let crowd = Crowd::start(&guest);
        inject::madvise_in_use(guest.base() + BAD)?;
        guest.pagemend.settle();
        crowd.finish(t, &[BAD]);
        // It counts the second although it says that the page is bad already.
        let said = said.lock().map(|said| said.clone()).unwrap_or_default();
        t.saw("what the kernel says of the second error", said.clone());
        t.equal("second errors", said.len(), 1);
        t.equal("KiB that the kernel counts as bad", pages::hardware_corrupted() - corrupted, 8);
        guest.lost_only(t, &[BAD]);
        t.equal("what was done", guest.actions(), vec![Action::Mend]);
        Ok(())
    },
}

scenario! {
    name: "pagemend/errors-elsewhere-during-a-mend",
    proves: "errors in other pages, found while one is being mended, are mended after it without anybody touching them",
    needs: Needs::NOTHING.huge_2m(8),
    run: |t| {
        inject::available()?;
        let bad: Vec<usize> = (0..8).map(|page| page * MIB_2 + (page + 1) * KIB_4).collect();
        let offsets = bad.clone();
        let guest = Guest::with(Kind::Hugetlb2M, 8 * MIB_2, |base, builder| {
            let rest = offsets[1..].iter().filter_map(|offset| pages::frame(base + offset).ok()?);
            let mut rest: Vec<u64> = rest.collect();
            let pause = move |_| rest.drain(..).try_for_each(inject::corrupt_frame).map_err(|e| e.to_string());
            builder.pause_hooks(pause, |_| ())
        })?;
        inject::corrupt(guest.base() + bad[0])?;
        // Once for the first, during which the others arrive, and once for these.
        guest.pagemend.settle();
        guest.pagemend.settle();
        t.equal("pages mended before anybody touches them", guest.actions(), vec![Action::Mend; 8]);
        guest.lost_only(t, &bad);
        Ok(())
    },
}

scenario! {
    name: "pagemend/errors-in-mended-memory",
    proves: "an error in the 4 KiB pages of a mended stretch loses another 4 KiB and nothing more",
    needs: Kind::Hugetlb2M.needs(1),
    run: |t| {
        let guest = Guest::of(Kind::Hugetlb2M)?;
        let crowd = Crowd::start(&guest);
        let bad = [0x5000, 0x8000, 0x1f_f000];
        for offset in bad {
            let said = crowd.still(|| inject::madvise_in_use(guest.base() + offset))?;
            t.saw(format!("what the kernel says of {offset:#x}"), said);
            guest.pagemend.settle();
            crowd.go_on();
        }
        crowd.finish(t, &bad);
        guest.lost_only(t, &bad);
        t.equal("what was done", guest.actions(), vec![Action::Mend, Action::Record, Action::Record]);
        Ok(())
    },
}

scenario! {
    name: "pagemend/errors-in-a-mended-gib",
    proves: "an error in a 2 MiB page that has replaced a part of a 1 GiB page is mended as the first was",
    set: All,
    needs: Kind::Hugetlb1G.needs(1),
    run: |t| {
        let guest = Guest::of(Kind::Hugetlb1G)?;
        let crowd = Crowd::start(&guest);
        let bad = [0x5000, 0x5000 + 7 * MIB_2, GIB_1 - KIB_4];
        for offset in bad {
            let said = inject::madvise_in_use(guest.base() + offset)?;
            t.saw(format!("what the kernel says of {offset:#x}"), said);
            guest.pagemend.settle();
            crowd.go_on();
        }
        crowd.finish(t, &bad);
        guest.lost_only(t, &bad);
        t.equal("what was done", guest.actions(), vec![Action::Mend; 3]);
        Ok(())
    },
}

scenario! {
    name: "pagemend/pool-empty",
    proves: "a 1 GiB page is mended with transparent huge pages if the pool of 2 MiB pages is empty",
    set: All,
    needs: Kind::Hugetlb1G.needs(1),
    run: |t| {
        // The pool's memory is what the transparent ones are made of.
        Pool::two_mib().resize(0);
        let guest = Guest::of(Kind::Hugetlb1G)?;
        let crowd = Crowd::start(&guest);
        const BAD: usize = GIB_1 / 2;
        inject::madvise_in_use(guest.base() + BAD)?;
        guest.pagemend.settle();
        crowd.finish(t, &[BAD]);
        guest.lost_only(t, &[BAD]);
        let segments = guest.pagemend.segments();
        let huge: u64 = segments.iter().filter(|s| s.page_size.is_huge()).map(|s| s.gpa.len()).sum();
        t.equal("bytes in huge pages", huge as usize, GIB_1 - MIB_2);
        Ok(())
    },
}

scenario! {
    name: "pagemend/until-the-pool-is-gone",
    proves: "when every page of a guest and of the pool has failed, one after another, each has lost 4 KiB",
    needs: Needs::NOTHING.huge_2m(16),
    run: |t| {
        const PAGES: usize = 16;
        let guest = Guest::with(Kind::Hugetlb2M, PAGES * MIB_2, |_, builder| builder)?;
        t.equal("free pages in the pool", Pool::two_mib().free(), 0);
        let crowd = Crowd::start(&guest);
        let bad: Vec<usize> = (0..PAGES).map(|page| page * MIB_2 + page * 31 * KIB_4).collect();
        for offset in &bad {
            inject::madvise_in_use(guest.base() + offset)?;
        }
        guest.pagemend.settle();
        crowd.finish(t, &bad);
        guest.lost_only(t, &bad);
        t.equal("pages mended", guest.pagemend.totals().mended, PAGES as u64);
        Ok(())
    },
}

scenario! {
    name: "pagemend/unreliable-list",
    proves: "a huge page of which the kernel does not know any more what is bad is reported lost whole, with the reason, and its neighbour is untouched",
    needs: Needs::NOTHING.huge_2m(3 + raw_list::PAGES),
    run: |t| {
        let memory = Guest::filled(Kind::Hugetlb2M, 2 * MIB_2)?;
        raw_list::give_up(memory.file().context("a file")?, memory.as_ptr() as usize)?;
        let guest = Guest::on(memory, |_, builder| builder)?;
        let touched = faults::load(guest.base() + 0x5128);
        t.equal("a touch", touched.map_err(|fault| fault.code), Err(libc::BUS_MCEERR_AR));
        let all: Vec<usize> = (0..MIB_2).step_by(KIB_4).collect();
        guest.lost_only(t, &all);
        t.equal("what was done", guest.actions(), vec![Action::Abandon]);
        let reasons = guest.steps().into_iter().find_map(|step| match step {
            Step::Done { reasons, .. } => Some(reasons),
            _ => None,
        });
        t.equal("why", reasons, Some(vec![Reason::NothingSalvaged]));
        Ok(())
    },
}
