//! Another process with the same memory: a fork that touches what it is told to and reports what it got.

use crate::early_kill;
use crate::faults::{self, Fault, Touch};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

/// The other process. It is gone when this is dropped.
pub(crate) struct Witness {
    orders: Option<File>,
    answers: File,
    pid: libc::pid_t,
}

const TOUCH: u64 = 0;
const TOLD: u64 = 1;

impl Witness {
    /// Forks. Do so before starting threads. With `early` it asks to hear of errors before a touch; let it tell before it touches.
    pub(crate) fn fork(early: bool) -> Result<Self> {
        let (orders_in, orders) = rustix::pipe::pipe().context("cannot make a pipe")?;
        let (answers, answers_out) = rustix::pipe::pipe().context("cannot make a pipe")?;
        // SAFETY: the child runs only the loop below and leaves with _exit; it takes no lock that another thread could have held.
        let pid = unsafe { libc::fork() };
        match pid {
            -1 => bail!("cannot fork a witness: {}", std::io::Error::last_os_error()),
            0 => {
                // Its copies of the parent's ends would keep the pipes open for ever.
                drop((orders, answers));
                let _ = serve(orders_in.into(), answers_out.into(), early);
                // SAFETY: leaves without running the parent's destructors.
                unsafe { libc::_exit(0) }
            }
            _ => {
                let mut witness = Self {
                    orders: Some(orders.into()),
                    answers: answers.into(),
                    pid,
                };
                drop((orders_in, answers_out));
                // It says once that it is ready, so that nothing happens before it listens.
                let _ready = witness.answer()?;
                Ok(witness)
            }
        }
    }

    /// Touches an address over there.
    pub(crate) fn touch(&mut self, address: usize) -> Result<Touch> {
        self.order(TOUCH, address)
    }

    /// What it was told without touching anything.
    pub(crate) fn told(&mut self) -> Result<Option<Fault>> {
        Ok(self.order(TOLD, 0)?.err())
    }

    fn order(&mut self, what: u64, address: usize) -> Result<Touch> {
        let mut order = [0; 16];
        order[..8].copy_from_slice(&what.to_le_bytes());
        order[8..].copy_from_slice(&(address as u64).to_le_bytes());
        let orders = self.orders.as_mut().context("the witness was let go")?;
        orders.write_all(&order).context("the witness is gone")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Touch> {
        let mut answer = [0; 40];
        self.answers
            .read_exact(&mut answer)
            .context("the witness died instead of answering")?;
        let field = |index: usize| {
            let bytes = answer[index * 8..][..8].try_into();
            u64::from_le_bytes(bytes.expect("eight bytes are eight bytes"))
        };
        if field(0) == 0 {
            return Ok(Ok(field(1)));
        }
        Ok(Err(Fault {
            signal: field(0) as i32,
            code: field(1) as i32,
            lsb: field(2) as u32,
            address: field(3) as usize,
        }))
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.orders = None;
        // SAFETY: waits for our own child; its status is not needed.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

fn serve(mut orders: File, mut answers: File, early: bool) -> std::io::Result<()> {
    let ear: Option<OwnedFd> = early.then(early_kill::listen).transpose()?;
    answers.write_all(&encode(Ok(0)))?;
    let mut order = [0; 16];
    while orders.read_exact(&mut order).is_ok() {
        let what = u64::from_le_bytes(order[..8].try_into().expect("eight bytes are eight bytes"));
        let address =
            u64::from_le_bytes(order[8..].try_into().expect("eight bytes are eight bytes"))
                as usize;
        let touch = match what {
            TOUCH => match &ear {
                // A touch's signal is forced: blocked, it would kill. So would what it was told and did not take.
                Some(ear) => {
                    while early_kill::next(ear).is_some() {}
                    early_kill::unblocked(|| faults::load(address))
                }
                None => faults::load(address),
            },
            _ => match &ear {
                Some(ear) => early_kill::next(ear),
                None => faults::optional(),
            }
            .map_or(Ok(0), Err),
        };
        answers.write_all(&encode(touch))?;
    }
    Ok(())
}

fn encode(touch: Touch) -> [u8; 40] {
    let fields = match touch {
        Ok(word) => [0, word, 0, 0, 0],
        Err(fault) => [
            fault.signal as u64,
            fault.code as u64,
            u64::from(fault.lsb),
            fault.address as u64,
            0,
        ],
    };
    let mut bytes = [0; 40];
    for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
        place.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}
