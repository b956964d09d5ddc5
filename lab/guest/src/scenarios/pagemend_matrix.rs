//! What pagemend makes of one error in each kind of memory, by each way to break it: 4 KiB are lost and told, and threads that check and write all of it all the while see nothing else. Beside it what the kernel alone would have taken.

use crate::crowd::Crowd;
use crate::guest::{Guest, Kind};
use crate::memory::KIB_4;
use crate::registry::{Family, Scenario};
use crate::toll::Toll;
use crate::trial::Trial;
use crate::inject;
use anyhow::Result;
use pagemend::Action;
use pagemend_lab_protocol::{ScenarioInfo, Set};

/// How memory is broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Injection {
    /// Somebody touches it: `MADV_HWPOISON`.
    Touched,
    /// A scrubber finds it, while everybody is at work: `corrupt-pfn`.
    Found,
    /// The same, and nobody touches it before the mender, which is told by a signal, has dealt with it.
    Untouched,
}

inventory::submit! {
    Family(|| {
        let injections = [(Injection::Touched, "touched"), (Injection::Found, "found"), (Injection::Untouched, "untouched")];
        let cases = Kind::ALL.into_iter().flat_map(|kind| injections.map(|injection| (kind, injection)));
        cases.map(|(kind, (injection, name))| Scenario {
            info: ScenarioInfo {
                name: format!("pagemend/{}/{name}", kind.name()),
                proves: proves(kind, injection),
                needs: kind.needs(2),
                // A GiB is worth its minutes once.
                set: if kind == Kind::Hugetlb1G && injection != Injection::Touched { Set::All } else { Set::Default },
            },
            run: Box::new(move |t| one_error(t, kind, injection)),
        }).collect()
    })
}

fn proves(kind: Kind, injection: Injection) -> String {
    let how = match injection {
        Injection::Touched => "an error that somebody touches",
        Injection::Found => "an error that a scrubber finds",
        Injection::Untouched => "an error that a scrubber finds and nobody touches before it has been dealt with",
    };
    let what = match kind.action() {
        Action::Abandon => "loses the whole page, which is told, and nothing besides",
        _ => "loses 4 KiB, which are told, and nothing besides",
    };
    format!("{how} in {} under pagemend {what}", kind.kind())
}

/// Where the error is: in the middle, and at no start of anything.
fn bad(len: usize) -> usize {
    len / 2 + 0x2_1000
}

fn one_error(t: &mut Trial, kind: Kind, injection: Injection) -> Result<()> {
    if injection != Injection::Touched {
        inject::available()?;
    }
    let bad = bad(kind.len());
    let inject = |base| match injection {
        Injection::Touched => inject::madvise_in_use(base + bad),
        Injection::Found | Injection::Untouched => inject::corrupt_in_use(base + bad),
    };
    let alone = Toll::of_the_kernel_alone(kind, kind.len(), &[bad], |base| inject(base).map(drop))?;
    alone.tell(t, "kernel alone");
    t.equal("bytes that the kernel alone takes", alone.lost_bytes, kind.page());
    let guest = Guest::of(kind)?;
    let crowd = Crowd::start(&guest);
    t.step("break it");
    let inject = || inject(guest.base());
    let said = match (kind, injection) {
        (_, Injection::Untouched) => crowd.still(|| {
            let said = inject()?;
            guest.pagemend.settle();
            // The kernel splits a file's transparent huge page before it looks who has it mapped, and then tells nobody.
            let done = if kind == Kind::ShmemThp { vec![] } else { vec![kind.action()] };
            t.equal("what was done before anybody touched it", guest.actions(), done);
            Ok::<_, anyhow::Error>(said)
        })?,
        (Kind::ShmemThp | Kind::AnonymousThp, _) => crowd.still(inject)?,
        _ => inject()?,
    };
    t.saw("what the kernel says", said);
    crowd.go_on();
    guest.pagemend.settle();
    crowd.go_on();
    let lost: Vec<usize> = match kind.action() {
        Action::Abandon => (bad / kind.page() * kind.page()..).step_by(KIB_4).take(kind.page() / KIB_4).collect(),
        _ => vec![bad],
    };
    let met = crowd.finish(t, &lost);
    Toll::under_pagemend(&guest, &met, &[bad]).tell(t, "pagemend");
    guest.lost_only(t, &lost);
    t.equal("what was done", guest.actions(), vec![kind.action()]);
    Ok(())
}
