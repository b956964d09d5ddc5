//! Calling a vCPU out of the guest, without a moment in which the call could be missed: the signal
//! is blocked everywhere but inside `KVM_RUN`, so one that comes before it ends it at once.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_bindings::{KVMIO, kvm_signal_mask};
use kvm_ioctls::VcpuFd;
use libc::c_int;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;
use vmm_sys_util::signal::{self, Killable, SIGRTMIN};

use crate::seccomp::Filter;

ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, kvm_signal_mask);

/// `struct kvm_signal_mask` with the bytes that follow it: a set of the kernel's 64 signals.
#[repr(C)]
struct SignalMask {
    len: u32,
    blocked: [u8; 8],
}

const _: () = assert!(size_of::<SignalMask>() == size_of::<kvm_signal_mask>() + 8);

/// Why the calling thread's vCPU could not be made to hear a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KickError {
    /// The signal cannot be blocked.
    #[error("the signal that calls a vCPU out of the guest cannot be blocked: {0:?}")]
    Signal(signal::Error),
    /// KVM does not take the mask.
    #[error("KVM does not take the signals that end KVM_RUN")]
    Mask(#[source] kvm_ioctls::Error),
}

/// The signal that calls a vCPU's thread out of the guest.
fn number() -> c_int {
    SIGRTMIN()
}

/// Has `KVM_RUN` of `vcpu` end when the calling thread, which runs it, is called.
pub(crate) fn listen(vcpu: &VcpuFd) -> Result<(), KickError> {
    match signal::block_signal(number()) {
        Ok(()) | Err(signal::Error::SignalAlreadyBlocked(_)) => {}
        Err(error) => return Err(KickError::Signal(error)),
    }
    let blocked = signal::get_blocked_signals().map_err(KickError::Signal)?;
    let blocked = blocked.into_iter().filter(|signal| *signal != number());
    let blocked = blocked.fold(0u64, |set, signal| set | 1 << (signal - 1));
    let mask = SignalMask {
        len: 8,
        blocked: blocked.to_le_bytes(),
    };
    // SAFETY: the kernel reads `len` and as many bytes as that says, which are there.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) };
    if result < 0 {
        return Err(KickError::Mask(errno::Error::last()));
    }
    Ok(())
}

/// Forgets calls that the calling thread has heard by now.
pub(crate) fn heard() {
    if let Err(error) = signal::clear_signal(number()) {
        // The next entry into the guest ends at once, and it is tried again then.
        tracing::warn!(?error, "a call to a vCPU stays pending");
    }
}

/// The threads of a machine's vCPUs, once they are there.
#[derive(Default)]
struct Threads(OnceLock<Vec<JoinHandle<()>>>);

impl Threads {
    fn call(&self, wanted: impl Fn(usize) -> bool) {
        let threads = self.0.get().into_iter().flatten().enumerate();
        for (_, thread) in threads.filter(|(vcpu, _)| wanted(*vcpu)) {
            // A thread that has ended hears nothing, and is not in the guest.
            let _ = thread.kill(number());
        }
    }
}

/// Calls vCPUs, now or later. To be cloned freely.
#[derive(Clone)]
pub(crate) struct Bell {
    threads: Arc<Threads>,
    later: Sender<(usize, Instant)>,
}

impl Bell {
    /// A bell that nobody hears before [`connect`](Self::connect), and the thread that waits until
    /// it is time, which ends after the last clone of the bell.
    pub(crate) fn new(filter: Filter) -> io::Result<Self> {
        let threads = Arc::<Threads>::default();
        let (later, appointments) = channel();
        let called = Arc::downgrade(&threads);
        thread::Builder::new()
            .name("bell".to_owned())
            .spawn(move || {
                if let Err(error) = filter.apply() {
                    return tracing::error!(%error, "vCPUs are not called later");
                }
                keep(&appointments, |vcpu| {
                    if let Some(threads) = called.upgrade() {
                        threads.call(|it| it == vcpu);
                    }
                });
            })?;
        Ok(Self { threads, later })
    }

    /// From now on these vCPUs hear it.
    pub(crate) fn connect(&self, threads: Vec<JoinHandle<()>>) {
        let connected = self.threads.0.set(threads);
        assert!(connected.is_ok(), "a machine's vCPUs are started once");
    }

    /// Calls all vCPUs.
    pub(crate) fn all(&self) {
        self.threads.call(|_| true);
    }

    /// Calls all vCPUs but one.
    pub(crate) fn others(&self, vcpu: usize) {
        self.threads.call(|it| it != vcpu);
    }

    /// Calls a vCPU after some time, or earlier if it is to be called earlier already.
    pub(crate) fn after(&self, vcpu: usize, time: Duration) {
        // The thread that waits ends with the process, or after this bell.
        let _ = self.later.send((vcpu, Instant::now() + time));
    }
}

/// Keeps appointments until nobody can make one any more.
fn keep(appointments: &Receiver<(usize, Instant)>, call: impl Fn(usize)) {
    let mut due = BTreeMap::<usize, Instant>::new();
    loop {
        let now = Instant::now();
        due.retain(|vcpu, time| {
            let early = *time > now;
            if !early {
                call(*vcpu);
            }
            early
        });
        let next = match due.values().min() {
            None => appointments
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(time) => appointments.recv_timeout(*time - now),
        };
        match next {
            Ok((vcpu, time)) => {
                let due = due.entry(vcpu).or_insert(time);
                *due = time.min(*due);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appointments_are_kept_in_the_order_of_their_times_and_the_earliest_of_each_counts() {
        let (make, appointments) = channel();
        let start = Instant::now();
        for (vcpu, time) in [(1, 40), (2, 20), (1, 10), (2, 60)] {
            make.send((vcpu, start + Duration::from_millis(time)))
                .unwrap();
        }
        let (called, calls) = channel();
        let keeper = thread::spawn(move || {
            keep(&appointments, |vcpu| {
                called.send((vcpu, start.elapsed())).unwrap();
            });
        });
        for (vcpu, time) in [(1, 10), (2, 20)] {
            let (seen, at) = calls.recv().unwrap();
            assert_eq!(seen, vcpu);
            assert!(at >= Duration::from_millis(time));
        }
        drop(make);
        keeper.join().unwrap();
        assert!(calls.recv().is_err(), "nobody is called twice");
    }
}
