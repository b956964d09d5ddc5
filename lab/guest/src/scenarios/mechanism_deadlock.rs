//! What pagemend must never do: a move of hugetlb memory that stops in a lock which the same move holds.

use crate::memory::{self, GIB_1, Mapping};
use crate::pattern::fill;
use crate::registry::scenario;
use anyhow::{Result, bail};
use pagemend_lab_protocol::Needs;
use rustix::mm::MapFlags;
use std::fs;
use std::time::Instant;

scenario! {
    name: "mechanism/move-deadlock",
    proves: "moving one shared mapping of 2 MiB pages that covers an aligned GiB deadlocks the kernel with itself: move_hugetlb_page_tables has locked the file for writing when huge_pmd_share locks it for reading",
    set: All,
    // A process that cannot be ended stays behind.
    needs: Needs::NOTHING.huge_2m(1).alone(),
    run: |t| {
        // All of it is the child's, so that only the child hangs.
        // SAFETY: there is one thread, and the child leaves without running destructors.
        let child = match unsafe { libc::fork() } {
            -1 => bail!("cannot fork: {}", std::io::Error::last_os_error()),
            0 => {
                let _ = move_a_gib();
                // SAFETY: ends the child.
                unsafe { libc::_exit(0) }
            }
            child => child,
        };
        let stuck = loop {
            // SAFETY: asks after our own child, and does not wait.
            let ended = unsafe { libc::waitpid(child, std::ptr::null_mut(), libc::WNOHANG) } != 0;
            let stack = fs::read_to_string(format!("/proc/{child}/stack")).unwrap_or_default();
            if stack.contains("huge_pmd_share") && stack.contains("move_hugetlb_page_tables") {
                break Some(stack);
            }
            if ended || Instant::now() > t.deadline() {
                break None;
            }
            std::thread::yield_now();
        };
        t.claim("the kernel waits for its own lock", stuck.is_some());
        t.saw("where", stuck.unwrap_or_default());
        Ok(())
    },
}

fn move_a_gib() -> Result<()> {
    let file = memory::hugetlb_2m(GIB_1)?;
    let map = || Mapping::file(&file, GIB_1, GIB_1, MapFlags::SHARED | MapFlags::NORESERVE);
    let (from, to) = (map()?, Mapping::anonymous(GIB_1, GIB_1, MapFlags::NORESERVE)?);
    fill(from.base(), 8);
    let target = to.base();
    std::mem::forget(to);
    Ok(from.move_over(target)?)
}
