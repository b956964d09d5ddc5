//! What the kernel does when memory fails: every kind of memory broken in every way, looked at from every side. These scenarios judge little; what they see goes into a table for each kernel version.

use crate::backing::{Backing, Subject};
use crate::early_kill::EarlyKill;
use crate::faults::{self, Fault};
use crate::memory::KIB_4;
use crate::pages::{self, Pool};
use crate::pattern::tell;
use crate::registry::{Family, Scenario};
use crate::salvage::readable;
use crate::trial::Trial;
use crate::witness::Witness;
use crate::inject;
use anyhow::{Context, Result};
use pagemend_lab_protocol::{Cpu, Needs, ScenarioInfo, Set};
use rustix::fs::{FallocateFlags, fallocate};
use std::path::Path;

/// Where the first error is in memory of a length: in the middle, and at no start of anything.
fn bad(len: usize) -> usize {
    len / 2 + 0x2_1000
}

/// Where the second error is, in the same huge page.
fn second(len: usize) -> usize {
    len / 2 + 0x4_1000
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Injection {
    Madvise,
    Early,
    Late,
    SoftOffline,
    Scrubber,
    Load,
}

impl Injection {
    const ALL: [Self; 6] = [
        Self::Madvise,
        Self::Early,
        Self::Late,
        Self::SoftOffline,
        Self::Scrubber,
        Self::Load,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Madvise => "madvise",
            Self::Early => "early",
            Self::Late => "late",
            Self::SoftOffline => "soft-offline",
            Self::Scrubber => "scrubber",
            Self::Load => "load",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Madvise => "MADV_HWPOISON hits",
            Self::Early => "corrupt-pfn hits, with an early-kill thread,",
            Self::Late => "corrupt-pfn hits, without an early-kill thread,",
            Self::SoftOffline => "MADV_SOFT_OFFLINE takes",
            Self::Scrubber => "a scrubber's machine check hits, with an early-kill thread,",
            Self::Load => "a load's machine check hits",
        }
    }

    fn needs(self, needs: Needs) -> Needs {
        match self {
            Self::Scrubber => needs.cpu(Cpu::Intel),
            Self::Load => needs.cpu(Cpu::Intel).tries(10),
            // A page that is taken away softly has moved to another one, which then fails.
            Self::SoftOffline => Needs {
                huge_2m: needs.huge_2m + u32::from(needs.huge_2m > 0),
                huge_1g: needs.huge_1g + u32::from(needs.huge_1g > 0),
                ..needs
            },
            _ => needs,
        }
    }
}

inventory::submit! {
    Family(|| {
        let cases = Backing::ALL.iter().flat_map(|b| Injection::ALL.iter().map(move |i| (*b, *i)));
        cases.map(|(backing, injection)| Scenario {
            info: ScenarioInfo {
                name: format!("kernel/{}/{}", backing.name(), injection.name()),
                proves: format!("what is seen when {} {}", injection.title(), backing.title()),
                needs: injection.needs(backing.needs()),
                set: Set::Default,
            },
            run: Box::new(move |t| observe(t, backing, injection)),
        }).collect()
    })
}

/// Counters before anything happened.
struct Before {
    corrupted: u64,
    pool: Option<(Pool, u64, u64)>,
}

impl Before {
    fn now(backing: Backing) -> Self {
        Self {
            corrupted: pages::hardware_corrupted(),
            pool: backing.pool().map(|pool| (pool.clone(), pool.total(), pool.free())),
        }
    }

    fn changes(&self, t: &mut Trial, when: &str) {
        let corrupted = pages::hardware_corrupted() as i64 - self.corrupted as i64;
        t.saw(format!("{when}: HardwareCorrupted"), format!("{corrupted:+} KiB"));
        if let Some((pool, total, free)) = &self.pool {
            let total = pool.total() as i64 - *total as i64;
            let free = pool.free() as i64 - *free as i64;
            t.saw(format!("{when}: pool"), format!("{total:+} pages, {free:+} free"));
        }
    }
}

fn observe(t: &mut Trial, backing: Backing, injection: Injection) -> Result<()> {
    if !Path::new("/proc/sys/vm/memory_failure_early_kill").exists() {
        return t.skip("this kernel has no CONFIG_MEMORY_FAILURE");
    }
    // For the second error, if not for the first.
    inject::available()?;
    let before = Before::now(backing);
    let mut subject = backing.open()?;
    let base = subject.first.base();
    let len = backing.len();
    let bad = base + bad(len);
    let frame_of = |address| pages::frame(address)?.context("the memory is not mapped");
    let [head, frame, second_frame] = [
        frame_of(base)?,
        frame_of(bad)?,
        frame_of(base + second(len))?,
    ];
    let early = matches!(injection, Injection::Early | Injection::Scrubber);
    let mut other = Witness::fork(early)?;
    for offset in [bad - base, len - 8] {
        t.equal(
            "the other process sees the same memory",
            other.touch(base + offset)?,
            Ok(crate::pattern::word(offset)),
        );
    }

    let ear = early.then(EarlyKill::start)
        .transpose()?;
    t.step("break it");
    break_it(t, injection, bad, frame)?;
    if let Some(ear) = &ear {
        t.saw("the early-kill thread is told", told(ear.told(), bad));
    }
    if let Some(fault) = faults::optional() {
        t.saw("the main thread is told", told(Some(fault), bad));
    }
    t.saw("the other process is told", told(other.told()?, bad));
    before.changes(t, "after");
    let flagged = |frame| Ok::<_, anyhow::Error>(pages::flags(frame)? & pages::KPF_HWPOISON != 0);
    t.saw(
        "KPF_HWPOISON",
        match (flagged(frame)?, flagged(head)?) {
            (true, true) => "on the bad 4 KiB and on the first",
            (true, false) => "on the bad 4 KiB",
            (false, true) => "on the first 4 KiB",
            (false, false) => "no",
        },
    );
    touches(t, "after", &subject, &mut other)?;
    reads(t, "after", &subject)?;

    t.step("break it a second time, in the same huge page");
    // What was taken away softly has moved; what is not mapped any more is where it was.
    let second_frame = pages::frame(base + second(len))?.unwrap_or(second_frame);
    let (said, _) = faults::catching(|| inject::corrupt_frame(second_frame));
    t.saw("second error", done(said));
    if let Some(ear) = &ear {
        let fault = ear.told();
        t.saw("the early-kill thread is told of the second", told(fault, base + second(len)));
    }
    before.changes(t, "after the second error");
    reads(t, "after the second error", &subject)?;

    if let Some(file) = &subject.file {
        t.step("punch it out of the file");
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = fallocate(file, flags, 0, len as u64);
        t.saw("punching", done(punched.map_err(Into::into)));
        touches(t, "after punching", &subject, &mut other)?;
        before.changes(t, "after punching");
    }

    t.step("let go of it");
    drop(other);
    subject.second = None;
    drop(subject);
    before.changes(t, "after letting go");
    Ok(())
}

/// Breaks the memory and sees what is said at once.
fn break_it(t: &mut Trial, injection: Injection, bad: usize, frame: u64) -> Result<()> {
    match injection {
        Injection::Madvise => {
            let (said, signal) = inject::madvise(bad);
            t.saw("the call gives", done(said));
            t.saw("the injecting thread is told", told(signal, bad));
        }
        Injection::Early | Injection::Late => {
            let (said, signal) = faults::catching(|| inject::corrupt_frame(frame));
            t.saw("the call gives", done(said));
            t.saw("the injecting thread is told", told(signal, bad));
        }
        Injection::SoftOffline => {
            t.saw("the call gives", done(inject::soft_offline(bad)));
            t.saw("the page is elsewhere now", pages::frame(bad)? != Some(frame));
        }
        Injection::Scrubber => inject::scrubber(t, frame)?,
        Injection::Load => {
            let fault = inject::load_error(t, bad, frame)?;
            t.saw("the loading thread is told", told(Some(fault), bad));
        }
    }
    Ok(())
}

/// What a touch gives: of the bad 4 KiB, of the next, of the far end; here, in the other mapping, in the other process.
fn touches(t: &mut Trial, when: &str, subject: &Subject, other: &mut Witness) -> Result<()> {
    let first = subject.first.base();
    let len = subject.first.len();
    let places = [bad(len), bad(len) + KIB_4, len - 8];
    let mut row = |whose: &str, touch: &mut dyn FnMut(usize) -> Result<faults::Touch>| {
        let found: Vec<String> = places
            .iter()
            .map(|&offset| Ok(tell(touch(offset)?, offset)))
            .collect::<Result<_>>()?;
        t.saw(format!("{when}: touch, {whose}"), in_short(&found));
        Ok::<_, anyhow::Error>(())
    };
    // The other process first: whoever touches a hole first makes the page that the others then see.
    row("other process", &mut |offset| other.touch(first + offset))?;
    if let Some(second) = &subject.second {
        row("other mapping", &mut |offset| Ok(faults::load(second.base() + offset)))?;
    }
    row("same mapping", &mut |offset| Ok(faults::load(first + offset)))
}

/// One thing if all is the same, else what is bad, what is next to it, and what is far.
fn in_short(found: &[String]) -> String {
    match found {
        [bad, next, far] if bad == next && next == far => format!("{bad} everywhere"),
        [bad, next, far] if next == far => format!("{bad}; {next} beside it"),
        other => other.join("; "),
    }
}

/// How much of the file can be read.
fn reads(t: &mut Trial, when: &str, subject: &Subject) -> Result<()> {
    if let Some(file) = &subject.file {
        let found = readable(file, subject.first.len())
            .unwrap_or_else(|error| format!("none: {}", error.root_cause()));
        t.saw(format!("{when}: 4 KiB pages that read() gives"), found);
    }
    Ok(())
}

/// What somebody was told, with where the address points.
fn told(fault: Option<Fault>, bad: usize) -> String {
    let Some(fault) = fault else {
        return "nothing".into();
    };
    if fault.address == bad {
        format!("{fault}, exact address")
    } else if fault.address == 0 {
        format!("{fault}, no address")
    } else {
        let distance = fault.address as i64 - bad as i64;
        format!("{fault}, {distance:+} bytes off")
    }
}

/// What a call gave, in a word.
fn done(result: std::io::Result<()>) -> String {
    result.map_or_else(|error| errno(&error), |()| "done".into())
}

/// An error in one word where it has one.
fn errno(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "EBUSY".into(),
        Some(libc::EHWPOISON) => "EHWPOISON".into(),
        Some(libc::EIO) => "EIO".into(),
        Some(libc::EINVAL) => "EINVAL".into(),
        Some(libc::EOPNOTSUPP) => "EOPNOTSUPP".into(),
        _ => error.to_string(),
    }
}
