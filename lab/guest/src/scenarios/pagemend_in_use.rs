//! A transparent huge page that a device has pinned when its memory fails. The kernel cannot split it, tells of the error and leaves it mapped: whoever touches the bad frame would meet the error again and again, so pagemend takes the frame out of the mapping itself.

use crate::crowd::Crowd;
use crate::guest::{Guest, Kind, gpa};
use crate::memory::{KIB_4, MIB_2};
use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use anyhow::{Context, Result};
use io_uring::IoUring;
use pagemend::{Cause, Inject};
use pagemend_lab_protocol::{ScenarioInfo, Set};

inventory::submit! {
    Family(|| [Kind::ShmemThp, Kind::AnonymousThp].map(|kind| Scenario {
        info: ScenarioInfo {
            name: format!("pagemend/{}/pinned", kind.name()),
            proves: format!("an error in {} that are pinned, which the kernel leaves mapped, loses 4 KiB that fault from then on", kind.kind()),
            needs: kind.needs(2),
            set: Set::Default,
        },
        run: Box::new(move |t| pinned(t, kind)),
    }).into())
}

const PINNED: usize = MIB_2;
const BAD: usize = MIB_2 + 0x2_1000;

fn pinned(t: &mut Trial, kind: Kind) -> Result<()> {
    let guest = Guest::of(kind)?;
    let ring = IoUring::new(1).context("no io_uring")?;
    let buffer = libc::iovec {
        iov_base: (guest.base() + PINNED) as *mut _,
        iov_len: KIB_4,
    };
    // SAFETY: guest memory that outlives the ring, and that nothing is ever read into.
    unsafe { ring.submitter().register_buffers(&[buffer]) }.context("cannot pin guest memory")?;
    let crowd = Crowd::start(&guest);
    guest.pagemend.madvise_errors().inject(gpa(BAD), Cause::ActionOptional)?;
    crowd.go_on();
    guest.pagemend.settle();
    crowd.go_on();
    crowd.finish(t, &[BAD]);
    guest.lost_only(t, &[BAD]);
    drop(ring);
    Ok(())
}
