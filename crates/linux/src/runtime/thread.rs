//! The mender's thread: receives faults, and answers them one after another.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use pagemend_core::fault::{Fault, Verdict};
use pagemend_core::host::Host;
use pagemend_core::mender::Mender;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::{Shared, inject};
use crate::host::LinuxHost;
use crate::intake::notice::Notices;
use crate::intake::{self, ranges, slot, threads};

/// What a VMM has the thread do first.
pub(super) type Prologue = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Starts the thread, and returns when it can receive faults.
pub(super) fn start(
    shared: &Arc<Shared>,
    prologue: Option<Prologue>,
) -> io::Result<JoinHandle<()>> {
    let (ready, started) = mpsc::channel();
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name("pagemend".to_owned());
    let thread = thread.spawn(move || {
        shared.thread.store(threads::current(), Ordering::Release);
        intake::set_mender_thread();
        let notices = Notices::new(shared.early_kill).and_then(|notices| {
            prologue.map_or(Ok(()), |prologue| prologue())?;
            Ok(notices)
        });
        let (notices, outcome) = match notices {
            Ok(notices) => (Some(notices), Ok(())),
            Err(error) => (None, Err(error)),
        };
        let told = ready.send(outcome);
        if let (Some(notices), Ok(())) = (notices, told) {
            let _leave_nobody_waiting = Closing(&shared);
            serve(&shared, &notices);
        }
    })?;
    match started.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::ErrorKind::Other.into()),
    }
}

/// However the thread ends, nobody waits for it any more and nobody starts to.
struct Closing<'a>(&'a Shared);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        ranges::clear();
        slot::close();
        *self.0.errands() = None;
    }
}

fn serve(shared: &Shared, notices: &Notices) {
    while !shared.stop.load(Ordering::Acquire) {
        let mut ready = [
            PollFd::new(notices, PollFlags::IN),
            PollFd::from_borrowed_fd(shared.doorbell.as_fd(), PollFlags::IN),
        ];
        let until_heal = until_heal(&engine(shared));
        // Interrupted or not, there is nothing to lose by looking.
        let _ = rustix::event::poll(&mut ready, until_heal.as_ref());
        // Read before the slots are looked at, so that a fault posted meanwhile rings again.
        let _ = rustix::io::read(shared.doorbell, &mut [0; 8]);
        work(shared, notices);
    }
    engine(shared).cancel();
}

/// How long there is nothing to do by itself.
fn until_heal(mender: &Mender<LinuxHost>) -> Option<Timespec> {
    let nanos = mender.next_heal()?.since(mender.host().now());
    // No longer than the kernel's clock goes.
    Timespec::try_from(Duration::from_nanos(nanos)).ok()
}

/// So many faults are handled in a row before something is done that nobody waits for, so that it
/// gets done whatever comes.
const FAULTS_AT_A_TIME: u32 = 16;

/// Does all that there is to do: faults at which somebody waits first, then errors that nobody has
/// touched and what is to be filled in the background in turn, then those who wait for all of it, then
/// everything else. When the mender ends, only faults and errors.
fn work(shared: &Shared, notices: &Notices) {
    let mut untouched = VecDeque::new();
    let mut handled = 0;
    let mut settling = vec![];
    loop {
        // All that have come, at once: while one of these signals is pending, the next is lost.
        untouched.extend(std::iter::from_fn(|| notice(shared, notices)));
        let ending = shared.stop.load(Ordering::Acquire);
        if (ending || handled < FAULTS_AT_A_TIME)
            && let Some(taken) = slot::take()
        {
            let verdict = engine(shared).handle(taken.fault());
            taken.answer(verdict);
            handled += 1;
            continue;
        }
        if ending {
            for fault in untouched.drain(..) {
                engine(shared).handle(fault);
            }
            return;
        }
        let more_faults = handled == FAULTS_AT_A_TIME;
        if handled > 0 {
            // Who was answered may have no other processor to go on with, and would wait until this
            // thread has used up its turn.
            std::thread::yield_now();
        }
        handled = 0;
        let noticed = untouched.pop_front();
        let more_errors = noticed.is_some();
        if let Some(fault) = noticed {
            engine(shared).handle(fault);
        }
        if engine(shared).step() || more_faults || more_errors {
            continue;
        }
        if engine(shared).heal_due() {
            continue;
        }
        if let Some(taken) = slot::take_settler() {
            settling.push(taken);
        } else if !settling.is_empty() {
            let all = settling.drain(..);
            all.for_each(|taken| taken.answer(Verdict::Mended));
        } else {
            let errand = shared.errands().as_mut().and_then(VecDeque::pop_front);
            match errand {
                Some(errand) => errand(&mut engine(shared)),
                None => return,
            }
        }
    }
}

fn engine(shared: &Shared) -> MutexGuard<'_, Mender<LinuxHost>> {
    shared.mender.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next error that nobody has touched. One that is only pretended comes the same way, and one
/// at a time: of two such signals that are pending the kernel keeps one.
fn notice(shared: &Shared, notices: &Notices) -> Option<Fault> {
    notices.next().or_else(|| {
        let hva = shared.pretended().pop_front()?;
        if let Err(error) = inject::notify_self(hva) {
            tracing::error!(%error, %hva, "a pretended error was not signalled");
        }
        notices.next()
    })
}
