//! What errors cost in bytes and threads: by the kernel alone, in a process without pagemend, and under pagemend in the same boot. A thread counts as killed that touches what has not failed and gets a SIGBUS for it: where nobody handles that, the process is gone.

use crate::faults;
use crate::guest::{Guest, Kind};
use crate::memory::{self, KIB_4};
use crate::pattern::fill;
use crate::trial::Trial;
use anyhow::{Context, Result, bail};
use pagemend::GuestMemory;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};

/// So many threads touch memory, as in a crowd.
pub(crate) const THREADS: usize = 4;

/// Bytes that nobody can read any more, and threads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Toll {
    pub(crate) lost_bytes: usize,
    pub(crate) threads_killed: usize,
}

impl Toll {
    /// Of errors at these offsets in a process of its own, by the kernel alone: fork before threads are started.
    pub(crate) fn of_the_kernel_alone(
        kind: Kind,
        len: usize,
        bad: &[usize],
        inject: impl FnOnce(usize) -> Result<()>,
    ) -> Result<Self> {
        let (answers, answers_out) = rustix::pipe::pipe().context("cannot make a pipe")?;
        // SAFETY: nothing else runs here that could hold a lock, and the child leaves with _exit.
        match unsafe { libc::fork() } {
            -1 => bail!("cannot fork: {}", std::io::Error::last_os_error()),
            0 => {
                let said = alone(kind, len, bad, inject).and_then(|toll| {
                    let numbers = [toll.lost_bytes, toll.threads_killed].map(usize::to_le_bytes);
                    Ok(File::from(answers_out).write_all(numbers.as_flattened())?)
                });
                if let Err(error) = said {
                    eprintln!("lab: without pagemend: {error:#}");
                }
                // SAFETY: leaves without running the parent's destructors.
                unsafe { libc::_exit(0) }
            }
            child => {
                drop(answers_out);
                let mut said = Vec::new();
                File::from(answers).read_to_end(&mut said)?;
                // Its memory is the pool's again when it is gone.
                // SAFETY: waits for our own child; what it said is what counts.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
                let (numbers, _) = said.as_chunks();
                match numbers {
                    [lost_bytes, threads_killed] => Ok(Self {
                        lost_bytes: usize::from_le_bytes(*lost_bytes),
                        threads_killed: usize::from_le_bytes(*threads_killed),
                    }),
                    _ => bail!("the process without pagemend died instead of counting"),
                }
            }
        }
    }

    /// Of the same under pagemend, from what each thread of a crowd that lives has met.
    pub(crate) fn under_pagemend(guest: &Guest, met: &[BTreeSet<usize>], bad: &[usize]) -> Self {
        let frames = guest.pagemend.with_ledger(|ledger| ledger.iter().count());
        let unharmed = |met: &&BTreeSet<usize>| met.iter().all(|frame| bad.contains(frame));
        Self {
            lost_bytes: frames * KIB_4,
            threads_killed: THREADS - met.iter().filter(unharmed).count(),
        }
    }

    /// Says it.
    pub(crate) fn tell(self, t: &mut Trial, whose: &str) {
        t.saw(format!("{whose}: lost_bytes"), self.lost_bytes);
        t.saw(format!("{whose}: threads_killed"), self.threads_killed);
    }
}

/// The process without pagemend: all its memory, each error, then the threads.
fn alone(
    kind: Kind,
    len: usize,
    bad: &[usize],
    inject: impl FnOnce(usize) -> Result<()>,
) -> Result<Toll> {
    let guest = GuestMemory::new(kind.kind(), len as u64)?;
    let base = guest.as_ptr() as usize;
    fill(base, len);
    inject(base)?;
    let frames = || (0..len).step_by(KIB_4);
    let dies = |number: usize| {
        let mut healthy = frames().filter(|frame| !bad.contains(frame));
        healthy.any(|frame| faults::load(base + frame + number * 8).is_err())
    };
    let threads_killed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| scope.spawn(move || dies(number)))
            .collect();
        let ends = threads.into_iter().map(|thread| thread.join());
        ends.filter(|end| !matches!(end, Ok(false))).count()
    });
    let lost = frames().filter(|frame| memory::peek(base + frame).is_err());
    Ok(Toll {
        lost_bytes: lost.count() * KIB_4,
        threads_killed,
    })
}
