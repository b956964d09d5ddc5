//! What pagemend is to the process that it is in: its handler beside others, its children, its rights, and errors that it makes itself.

use crate::crowd::Crowd;
use crate::faults::{self, Fault};
use crate::guest::{Guest, Kind, gpa};
use crate::memory::{self, KIB_4, MIB_2, Mapping};
use crate::pattern::word;
use crate::privileged::Helper;
use crate::registry::{Family, Scenario, scenario};
use crate::trial::Trial;
use crate::witness::Witness;
use crate::inject;
use anyhow::{Context, Result, bail};
use pagemend::{Cause, Inject};
use pagemend_lab_protocol::{ScenarioInfo, Set};
use std::fs;

const BAD: usize = 0x5000;

scenario! {
    name: "pagemend/handler-chain",
    proves: "the handler that was there before gets a plain thread's touch of a lost frame as BUS_MCEERR_AR at the exact address, and every SIGBUS that is no guest memory as it came",
    needs: Kind::Hugetlb2M.needs(1),
    run: |t| {
        let guest = Guest::of(Kind::Hugetlb2M)?;
        inject::madvise_in_use(guest.base() + BAD)?;
        let inside = guest.base() + BAD + 0x128;
        t.equal("a touch of the lost frame", faults::load(inside), Err(Fault::action_required(inside, 12)));
        // SAFETY: a word of guest memory.
        let stored = unsafe { faults::store(inside, 1) };
        t.equal("a store to it", stored, Err(Fault::action_required(inside, 12)));

        let file = memory::shmem(KIB_4)?;
        let other = Mapping::shared(&file, KIB_4, KIB_4)?;
        rustix::fs::ftruncate(&file, 0)?;
        let beyond = Fault { signal: libc::SIGBUS, code: libc::BUS_ADRERR, lsb: 0, address: other.base() };
        t.equal("a touch behind the end of a file", faults::load(other.base()), Err(beyond));

        let alone = Mapping::shared(memory::shmem(KIB_4)?, KIB_4, KIB_4)?;
        crate::pattern::fill(alone.base(), KIB_4);
        inject::madvise(alone.base()).0.context("cannot poison")?;
        t.equal(
            "a touch of failed memory that is no guest's",
            faults::load(alone.base()),
            Err(Fault::action_required(alone.base(), 12)),
        );
        guest.lost_only(t, &[BAD]);
        Ok(())
    },
}

inventory::submit! {
    Family(|| [Kind::Hugetlb2M, Kind::Shmem].map(|kind| Scenario {
        info: ScenarioInfo {
            name: format!("pagemend/{}/injected", kind.name()),
            proves: format!("a process that breaks {} of its own guest with pagemend survives that, without any SIGBUS handler but pagemend's", kind.kind()),
            needs: kind.needs(1),
            set: Set::Default,
        },
        run: Box::new(move |t| injected(t, kind)),
    }).into())
}

fn injected(t: &mut Trial, kind: Kind) -> Result<()> {
    // SAFETY: back to the default, as in a program that has no handler.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    let guest = Guest::of(kind)?;
    guest.pagemend.madvise_errors().inject(gpa(BAD), Cause::ActionOptional)?;
    t.equal("what was done when it returns", guest.actions(), vec![kind.action()]);
    let again = BAD + MIB_2;
    guest.pagemend.madvise_errors().inject(gpa(again), Cause::ActionRequired)?;
    guest.pagemend.settle();
    t.equal("of one to be met by a touch nobody hears before", guest.actions().len(), 1);
    t.claim("the touch is refused", guest.guarded().load::<u64>(gpa(again)).is_err());
    t.equal("and then it is dealt with", guest.actions(), vec![kind.action(); 2]);
    let guarded = guest.guarded();
    let refused: Vec<usize> = (0..guest.len())
        .step_by(KIB_4)
        .filter(|page| guarded.load::<u64>(gpa(*page)) != Ok(word(*page)))
        .collect();
    t.equal("frames that guarded access refuses", refused, vec![BAD, again]);
    Ok(())
}

scenario! {
    name: "pagemend/fork",
    proves: "a child never reads zeros for what is lost: it does not inherit the lost frame, and has everything else",
    needs: Kind::Hugetlb2M.needs(1),
    run: |t| {
        let guest = Guest::of(Kind::Hugetlb2M)?;
        inject::madvise_in_use(guest.base() + BAD)?;
        guest.pagemend.settle();
        let mut child = Witness::fork(false)?;
        let lost = child.touch(guest.base() + BAD)?;
        t.equal("the lost frame", lost.map_err(|fault| fault.signal), Err(libc::SIGSEGV));
        for (what, offset) in [("its neighbour", BAD + KIB_4), ("the next page", MIB_2)] {
            t.equal(what, child.touch(guest.base() + offset)?, Ok(word(offset)));
        }
        drop(child);
        guest.lost_only(t, &[BAD]);
        Ok(())
    },
}

inventory::submit! {
    Family(|| [Kind::Hugetlb2M, Kind::Shmem, Kind::AnonymousThp].map(|kind| Scenario {
        info: ScenarioInfo {
            name: format!("pagemend/{}/unprivileged", kind.name()),
            proves: format!("a process without any privilege loses 4 KiB of {} under pagemend, and nothing besides", kind.kind()),
            needs: kind.needs(1),
            set: Set::Default,
        },
        run: Box::new(move |t| unprivileged(t, kind)),
    }).into())
}

fn unprivileged(t: &mut Trial, kind: Kind) -> Result<()> {
    let mut helper = Helper::fork()?;
    give_up_rights()?;
    let status = fs::read_to_string("/proc/self/status")?;
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    t.equal("effective capabilities", capabilities.map(str::trim), Some("0000000000000000"));
    let guest = Guest::of(kind)?;
    t.saw("the userfaultfd", format!("{:?}", guest.pagemend.userfaultfd()));
    let crowd = Crowd::start(&guest);
    let said = crowd.still(|| helper.corrupt(guest.base() + BAD));
    said?;
    guest.pagemend.settle();
    crowd.go_on();
    crowd.finish(t, &[BAD]);
    guest.lost_only(t, &[BAD]);
    t.equal("what was done", guest.actions(), vec![kind.action()]);
    Ok(())
}

/// Becomes nobody.
fn give_up_rights() -> Result<()> {
    const NOBODY: u32 = 65534;
    // SAFETY: numbers only; there is one thread.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(NOBODY, NOBODY, NOBODY) == 0
            && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0
            // As after an exec: otherwise /proc/self belongs to root.
            && libc::prctl(libc::PR_SET_DUMPABLE, 1) == 0
    };
    match done {
        true => Ok(()),
        false => bail!("cannot become nobody: {}", std::io::Error::last_os_error()),
    }
}
