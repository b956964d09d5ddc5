//! Keeps the processors of the emulated machine going.
//!
//! QEMU's software emulation can lose an interrupt of a processor that enters or leaves a guest of its own: it then changes the processor's word of pending interrupts without the lock under which others set bits in it (`helper_vmrun` and `do_vmexit` against `tcg_handle_interrupt`, QEMU 7.2). Where that was the timer's, the processor stays in its guest for as long as the guest does not leave by itself, and the kernel calls it a soft lockup. Any further interrupt brings back the lost one. So each processor interrupts its neighbour now and then, and nobody stands still for longer than that. A machine that is kept on one processor of its host, as those are that run scenarios with guests, should lose none; one for a look at a guest (`cargo xtask lab vm`) is not kept so.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Long enough that it costs nothing, and short against what scenarios wait for.
const INTERVAL: Duration = Duration::from_millis(50);

/// Starts it, for as long as this process lives.
pub(crate) fn start() -> io::Result<()> {
    let processors = thread::available_parallelism()?.get();
    for from in 0..processors {
        let (beat, beats) = mpsc::channel();
        let to = (from + 1) % processors;
        spawn(from, move || {
            while beat.send(()).is_ok() {
                thread::sleep(INTERVAL);
            }
        })?;
        // To wake a thread that goes before all others on another processor takes an interrupt.
        spawn(to, move || beats.iter().for_each(drop))?;
    }
    Ok(())
}

/// Runs a thread on one processor, before all that are not as urgent.
fn spawn(processor: usize, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(format!("heartbeat{processor}"));
    thread.spawn(move || {
        let mut processors = rustix::thread::CpuSet::new();
        processors.set(processor);
        let kept = rustix::thread::sched_setaffinity(None, &processors);
        let urgent = libc::sched_param { sched_priority: 1 };
        // SAFETY: the call reads the parameters, which are there. By number, because not every C library has it for a thread.
        let urged = unsafe {
            libc::syscall(
                libc::SYS_sched_setscheduler,
                0,
                libc::SCHED_FIFO,
                &raw const urgent,
            )
        };
        match (kept, urged) {
            (Ok(()), 0) => body(),
            _ => eprintln!("lab: processor {processor} has no heartbeat"),
        }
    })?;
    Ok(())
}
