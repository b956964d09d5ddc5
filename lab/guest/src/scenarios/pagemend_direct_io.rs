//! Direct I/O of a disk on guest memory, in flight while its page fails and is mended. The disk is one that answers when the scenario says so: what is in flight stays there for the whole of the mend.

use crate::disk::Disk;
use crate::guest::{Guest, Kind, gpa};
use crate::inject;
use crate::memory::KIB_4;
use crate::pattern::{survey, word};
use crate::registry::{Family, Scenario, scenario};
use crate::trial::Trial;
use anyhow::{Context, Result, anyhow};
use pagemend::{GpaRange, Step};
use pagemend_lab_protocol::{ScenarioInfo, Set};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::channel;
use std::thread;

/// What is read or written: more than the socket to the disk holds, so that a write is not through before the disk takes it.
const RANGE: Range<usize> = 0x8000..0x10_8000;
/// The frame that fails, in the same huge page.
const BAD: usize = 0x18_0000;

/// As the disk does it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Direction {
    /// From the disk into guest memory.
    Read,
    /// From guest memory to the disk.
    Write,
}

inventory::submit! {
    Family(|| {
        let cases = [
            (Direction::Read, false, "read-without-a-lease", "without a lease, what a disk reads into a page that is mended meanwhile is lost, and the read has succeeded"),
            (Direction::Read, true, "read-with-a-lease", "with a lease, a mend waits for a disk's read, which is in guest memory then"),
            (Direction::Write, false, "write-without-a-lease", "a disk's write from a page that is mended meanwhile takes the old page's bytes, which are those that were there when it began"),
            (Direction::Write, true, "write-with-a-lease", "with a lease, a mend waits for a disk's write, which is whole"),
        ];
        cases.map(|(direction, leased, name, proves)| Scenario {
            info: ScenarioInfo {
                name: format!("pagemend/direct-{name}"),
                proves: proves.into(),
                needs: Kind::Hugetlb2M.needs(1),
                set: Set::Default,
            },
            run: Box::new(move |t| in_flight(t, direction, leased)),
        }).into()
    })
}

fn in_flight(t: &mut Trial, direction: Direction, leased: bool) -> Result<()> {
    let (tell, planned) = channel();
    let guest = Guest::with(Kind::Hugetlb2M, Kind::Hugetlb2M.len(), |_, builder| {
        builder.listen("planned", move |event| {
            if let Step::Plan { .. } = event.step {
                let _ = tell.send(());
            }
        })
    })?;
    let data: Vec<u8> = RANGE.step_by(8).flat_map(|at| word(at).to_ne_bytes()).collect();
    let disk = match direction {
        Direction::Read => {
            // What is there until the data comes, so that data that went elsewhere shows.
            let memory = guest.guarded();
            RANGE.step_by(8).try_for_each(|at| memory.store(gpa(at), 0u64))?;
            Disk::of(data.clone())?
        }
        Direction::Write => Disk::of(vec![0; data.len()])?,
    };
    let file = disk.direct()?;
    disk.hold();
    let range = GpaRange::new(gpa(RANGE.start), RANGE.len() as u64).context("a range")?;
    let lease = leased.then(|| guest.pagemend.lease(range)).transpose()?;
    let memory = guest.base() + RANGE.start;
    let bad = guest.base() + BAD;
    let moved = thread::scope(|scope| {
        let moving = scope.spawn(|| transfer(&file, direction, memory, RANGE.len(), 0));
        disk.wait_for_held()?;
        let injecting = scope.spawn(move || inject::madvise_in_use(bad));
        if lease.is_some() {
            planned.recv().context("nothing was planned")?;
        } else {
            injecting.join().map_err(|_| anyhow!("the injecting thread died"))??;
            guest.pagemend.settle();
        }
        disk.release();
        let moved = moving.join().map_err(|_| anyhow!("the thread that waits for the disk died"))?;
        // An injecting thread that waits for the mend waits for this.
        drop(lease);
        moved.context("direct I/O")
    })?;
    t.equal("bytes that the kernel says were moved", moved, RANGE.len());
    if direction == Direction::Write {
        t.claim("the disk has what was in memory", *disk.contents() == data);
    }
    if direction == Direction::Read && !leased {
        let found = survey(guest.base(), 0..guest.len());
        let frames: Vec<usize> = RANGE.step_by(KIB_4).collect();
        t.claim("none of it is in guest memory", found.zero == frames);
        t.saw("the guest's memory", found.summary());
    } else {
        guest.lost_only(t, &[BAD]);
    }
    Ok(())
}

scenario! {
    name: "pagemend/direct-io-on-a-lost-frame",
    proves: "direct I/O on a lost frame is an error, in both directions, and goes on beside it: a disk never gets zeros for what is lost",
    needs: Kind::Hugetlb2M.needs(1),
    run: |t| {
        let guest = Guest::of(Kind::Hugetlb2M)?;
        let before = vec![0xce; 2 * KIB_4];
        let disk = Disk::of(before.clone())?;
        let file = disk.direct()?;
        inject::madvise_in_use(guest.base() + BAD)?;
        guest.pagemend.settle();
        for direction in [Direction::Write, Direction::Read] {
            let lost = transfer(&file, direction, guest.base() + BAD, KIB_4, 0);
            let said = lost.map_err(|error| error.raw_os_error());
            t.equal(format!("{direction:?}: the lost frame"), said, Err(Some(libc::EFAULT)));
        }
        t.claim("nothing has reached the disk", *disk.contents() == before);
        let beside = BAD + KIB_4;
        transfer(&file, Direction::Write, guest.base() + beside, KIB_4, KIB_4)?;
        guest.guarded().store(gpa(beside), 0u64)?;
        transfer(&file, Direction::Read, guest.base() + beside, KIB_4, KIB_4)?;
        guest.lost_only(t, &[BAD]);
        Ok(())
    },
}

/// Moves bytes between guest memory and a place on the disk.
fn transfer(file: &OwnedFd, direction: Direction, memory: usize, len: usize, place: usize) -> io::Result<usize> {
    let (file, memory, place) = (file.as_raw_fd(), memory as *mut libc::c_void, place as i64);
    // SAFETY: guest memory, which stays mapped, and into which Rust has no references.
    let moved = unsafe {
        match direction {
            Direction::Read => libc::pread(file, memory, len, place),
            Direction::Write => libc::pwrite(file, memory, len, place),
        }
    };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
