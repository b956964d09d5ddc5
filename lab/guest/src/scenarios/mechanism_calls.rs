//! What system calls say of memory that is lost: nothing of the kernel's may read zeros where a touch faults.

use crate::inject;
use crate::memory::{self, KIB_4, MIB_2, Mapping, advise, peek, whole};
use crate::pattern::fill;
use crate::registry::scenario;
use crate::staging::stage_small;
use crate::trial::Trial;
use anyhow::Context;
use pagemend_lab_protocol::Needs;
use std::io;

const LOST: usize = 0x2000;

scenario! {
    name: "mechanism/calls-on-a-poisoned-huge-page",
    proves: "system calls on a poisoned 2 MiB page fail, on its healthy bytes too",
    needs: Needs::NOTHING.huge_2m(1),
    run: |t| {
        let file = memory::hugetlb_2m(MIB_2)?;
        let guest = Mapping::shared(&file, MIB_2, MIB_2)?;
        fill(guest.base(), MIB_2);
        inject::madvise(guest.base() + LOST).0.context("cannot poison")?;
        all_fail(t, "a healthy byte", guest.base() + MIB_2 / 2);
        all_fail(t, "the bad 4 KiB", guest.base() + LOST);
        Ok(())
    },
}

scenario! {
    name: "mechanism/calls-on-a-marker",
    proves: "system calls on a frame with a poison marker fail, and work beside it",
    needs: Needs::NOTHING,
    run: |t| {
        let file = memory::shmem(MIB_2)?;
        let filling = Mapping::shared(&file, MIB_2, MIB_2)?;
        fill(filling.base(), MIB_2);
        let staged = stage_small(Mapping::shared(&file, MIB_2, MIB_2)?, &[LOST])?;
        all_fail(t, "the lost frame", staged.view.base() + LOST);
        for (name, result) in calls(staged.view.base() + MIB_2 / 2) {
            t.equal(format!("{name}: a healthy frame"), say(&result), "works".to_owned());
        }
        Ok(())
    },
}

fn all_fail(t: &mut Trial, place: &str, address: usize) {
    for (name, result) in calls(address) {
        t.saw(format!("{name}: {place}"), say(&result));
        t.claim(format!("{name} fails on {place}"), result.is_err());
    }
}

fn say(result: &io::Result<()>) -> String {
    match result {
        Ok(()) => "works".into(),
        Err(error) => error.to_string(),
    }
}

/// Calls by which the kernel reads or writes 4 KiB of this process's memory.
fn calls(address: usize) -> Vec<(&'static str, io::Result<()>)> {
    /// `MADV_POPULATE_READ` and `MADV_POPULATE_WRITE`.
    const POPULATE: [i32; 2] = [22, 23];
    vec![
        ("MADV_POPULATE_READ", advise(address, KIB_4, POPULATE[0])),
        ("MADV_POPULATE_WRITE", advise(address, KIB_4, POPULATE[1])),
        ("process_vm_readv", peek(address)),
        ("write to a pipe", into_pipe(address)),
        ("read from a pipe", from_pipe(address)),
    ]
}

fn into_pipe(address: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let (_out, into) = rustix::pipe::pipe()?;
    // SAFETY: reads from a mapping of the scenario; a pipe holds more than this.
    whole(unsafe { libc::write(into.as_raw_fd(), address as *const _, KIB_4) })
}

/// Writes zeros there.
fn from_pipe(address: usize) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let (out, into) = rustix::pipe::pipe()?;
    rustix::io::write(&into, &[0; KIB_4])?;
    // SAFETY: writes into a mapping of the scenario.
    whole(unsafe { libc::read(out.as_raw_fd(), address as *mut _, KIB_4) })
}
