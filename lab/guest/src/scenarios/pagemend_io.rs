//! I/O of the kernel's own that is in flight when its page fails: it writes to the old page, wherever the guest's memory is by then.

use crate::guest::{Guest, Kind, gpa};
use crate::memory::KIB_4;
use crate::pattern::{survey, word};
use crate::registry::scenario;
use crate::inject;
use anyhow::{Context, Result, bail};
use io_uring::{IoUring, opcode, types};
use pagemend::{GpaRange, Step};
use rustix::io::write;
use rustix::pipe::pipe;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::channel;

/// The frame that the I/O is on.
const TARGET: usize = 0x3000;
/// The frame that fails.
const BAD: usize = 0x5000;

/// A read into guest memory that the kernel has pinned, and that does not end before its data is sent.
struct InFlight {
    ring: IoUring,
    sender: OwnedFd,
    _receiver: OwnedFd,
}

impl InFlight {
    fn start(guest: &Guest) -> Result<Self> {
        // What is there until the data comes, so that a write that went elsewhere shows.
        for offset in (TARGET..TARGET + KIB_4).step_by(8) {
            guest.guarded().store(gpa(offset), 0u64)?;
        }
        let (receiver, sender) = pipe()?;
        let mut ring = IoUring::new(4).context("no io_uring")?;
        let address = (guest.base() + TARGET) as *mut u8;
        let buffer = libc::iovec { iov_base: address.cast(), iov_len: KIB_4 };
        // SAFETY: the guest's memory stays mapped; the kernel keeps the pages that it is now.
        unsafe { ring.submitter().register_buffers(&[buffer]) }.context("cannot pin guest memory")?;
        let read = opcode::ReadFixed::new(types::Fd(receiver.as_raw_fd()), address, KIB_4 as u32, 0)
            .offset(u64::MAX)
            .build();
        // SAFETY: buffer and pipe live as long as the ring.
        unsafe { ring.submission().push(&read) }.context("no room in the ring")?;
        ring.submit()?;
        Ok(Self { ring, sender, _receiver: receiver })
    }

    /// Sends what belongs there, and waits until the kernel says that it is there.
    fn finish(mut self) -> Result<()> {
        let data: Vec<u8> = (TARGET..TARGET + KIB_4).step_by(8).flat_map(|at| word(at).to_ne_bytes()).collect();
        write(&self.sender, &data)?;
        self.ring.submit_and_wait(1)?;
        match self.ring.completion().next().map(|entry| entry.result()) {
            Some(done) if done == KIB_4 as i32 => Ok(()),
            other => bail!("the read came to {other:?}"),
        }
    }
}

scenario! {
    name: "pagemend/io-without-a-lease",
    proves: "without a lease, what a device reads into a page that is mended meanwhile is lost without a trace: what leases are for",
    needs: Kind::Hugetlb2M.needs(1),
    run: |t| {
        let guest = Guest::of(Kind::Hugetlb2M)?;
        let io = InFlight::start(&guest)?;
        inject::madvise_in_use(guest.base() + BAD)?;
        guest.pagemend.settle();
        io.finish()?;
        let found = survey(guest.base(), 0..guest.len());
        t.equal("frames without what the kernel says was read into them", found.zero, vec![TARGET]);
        Ok(())
    },
}

scenario! {
    name: "pagemend/io-with-a-lease",
    proves: "with a lease, a mend waits for the I/O in flight, and what a device has read is in guest memory",
    needs: Kind::Hugetlb2M.needs(1),
    run: |t| {
        let (tell, planned) = channel();
        let guest = Guest::with(Kind::Hugetlb2M, Kind::Hugetlb2M.len(), |_, builder| {
            builder.listen("planned", move |event| {
                if let Step::Plan { .. } = event.step {
                    let _ = tell.send(());
                }
            })
        })?;
        let range = GpaRange::new(gpa(TARGET), KIB_4 as u64).context("a range")?;
        let lease = guest.pagemend.lease(range)?;
        let io = InFlight::start(&guest)?;
        let bad = guest.base() + BAD;
        let injecting = std::thread::spawn(move || inject::madvise_in_use(bad));
        planned.recv().context("nothing was planned")?;
        io.finish()?;
        drop(lease);
        injecting.join().map_err(|_| anyhow::anyhow!("the injecting thread died"))??;
        guest.lost_only(t, &[BAD]);
        Ok(())
    },
}

scenario! {
    name: "pagemend/io-that-does-not-end",
    proves: "a mend that waits in vain for a lease gives the page up: nothing of it can be read, and all of it is told lost",
    needs: Kind::Hugetlb2M.needs(1),
    run: |t| {
        let guest = Guest::with(Kind::Hugetlb2M, Kind::Hugetlb2M.len(), |_, builder| {
            builder.lease_limit(std::time::Duration::from_millis(50))
        })?;
        let range = GpaRange::new(gpa(TARGET), KIB_4 as u64).context("a range")?;
        let lease = guest.pagemend.lease(range)?;
        inject::madvise_in_use(guest.base() + BAD)?;
        let all: Vec<usize> = (0..Kind::Hugetlb2M.page()).step_by(KIB_4).collect();
        guest.lost_only(t, &all);
        drop(lease);
        Ok(())
    },
}
