//! A helper that stays root when the scenario gives that up, and breaks its memory for it.

use crate::inject;
use anyhow::{Context, Result, bail};
use rustix::io::pread;
use rustix::pipe::pipe;
use rustix::process::getpid;
use std::fs::File;
use std::io::{Read, Write};

/// The helper. It is gone when this is dropped.
pub(crate) struct Helper {
    orders: File,
    answers: File,
}

impl Helper {
    /// Forks it. Do so before starting threads.
    pub(crate) fn fork() -> Result<Self> {
        inject::available()?;
        let (orders_in, orders) = pipe()?;
        let (answers, answers_out) = pipe()?;
        let scenario = getpid().as_raw_nonzero().get();
        // SAFETY: the child runs only the loop below and leaves with _exit; there is no other thread yet that could hold a lock.
        match unsafe { libc::fork() } {
            -1 => bail!("cannot fork a helper: {}", std::io::Error::last_os_error()),
            0 => {
                drop((orders, answers));
                let (mut orders, mut answers) = (File::from(orders_in), File::from(answers_out));
                let mut address = [0; 8];
                while orders.read_exact(&mut address).is_ok() {
                    let done = corrupt(scenario, usize::from_ne_bytes(address)).is_ok();
                    let _ = answers.write_all(&[u8::from(done)]);
                }
                // SAFETY: leaves without running the parent's destructors.
                unsafe { libc::_exit(0) }
            }
            _ => Ok(Self {
                orders: orders.into(),
                answers: answers.into(),
            }),
        }
    }

    /// A scrubber's find in the frame behind an address of the scenario's.
    pub(crate) fn corrupt(&mut self, address: usize) -> Result<()> {
        self.orders.write_all(&address.to_ne_bytes())?;
        let mut done = [0];
        self.answers
            .read_exact(&mut done)
            .context("the helper is gone")?;
        match done {
            [1] => Ok(()),
            _ => bail!("the helper cannot break it"),
        }
    }
}

fn corrupt(process: i32, address: usize) -> Result<()> {
    let table = File::open(format!("/proc/{process}/pagemap"))?;
    let mut entry = [0; 8];
    pread(&table, &mut entry, address as u64 / 4096 * 8)?;
    let frame = u64::from_ne_bytes(entry) & ((1 << 55) - 1);
    Ok(inject::corrupt_frame(frame)?)
}
