//! Who may run: vCPUs ask before each entry into the guest, and whoever steers the machine stops
//! them and lets them go.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What vCPUs are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Run,
    Pause,
    End,
}

/// What a vCPU does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Go {
    /// It enters the guest.
    Run,
    /// It starts again, as the machine has, and asks again.
    Reset,
    /// Its thread ends.
    End,
}

struct State {
    wish: Wish,
    /// Counts the machine's starts.
    start: u64,
    /// vCPUs outside the guest that wait.
    parked: usize,
    /// vCPUs whose thread has not ended.
    alive: usize,
}

/// The gate that all vCPUs of a machine go through.
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// A closed gate, and nobody who wants to pass.
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                wish: Wish::Pause,
                start: 0,
                parked: 0,
                alive: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete in one step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A vCPU that has seen start number `start` asks what to do, and waits where it may not run.
    pub(crate) fn pass(&self, start: &mut u64) -> Go {
        let mut state = self.state();
        if state.wish == Wish::Pause {
            state.parked += 1;
            self.changed.notify_all();
            while state.wish == Wish::Pause {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            state.parked -= 1;
        }
        if state.wish == Wish::End {
            return Go::End;
        }
        if *start != state.start {
            *start = state.start;
            return Go::Reset;
        }
        Go::Run
    }

    /// There is one more vCPU.
    pub(crate) fn join(&self) {
        self.state().alive += 1;
    }

    /// A vCPU's thread has ended.
    pub(crate) fn leave(&self) {
        self.state().alive -= 1;
        self.changed.notify_all();
    }

    /// From now on no vCPU passes. Those in the guest have to be called out of it.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        if state.wish == Wish::Run {
            state.wish = Wish::Pause;
        }
    }

    /// Waits until all vCPUs are outside the guest.
    pub(crate) fn wait_until_parked(&self) {
        let mut state = self.state();
        while state.wish == Wish::Pause && state.parked < state.alive {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all vCPUs' threads have ended.
    pub(crate) fn wait_until_gone(&self) {
        let mut state = self.state();
        while state.alive > 0 {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets vCPUs run.
    pub(crate) fn open(&self) {
        let mut state = self.state();
        if state.wish == Wish::Pause {
            state.wish = Wish::Run;
            self.changed.notify_all();
        }
    }

    /// The number of the machine's start.
    pub(crate) fn start(&self) -> u64 {
        self.state().start
    }

    /// Has all vCPUs start again when they run next.
    pub(crate) fn start_again(&self) {
        self.state().start += 1;
    }

    /// Has all vCPUs' threads end. Those in the guest have to be called out of it.
    pub(crate) fn end(&self) {
        self.state().wish = Wish::End;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_closed_gate_holds_each_vcpu_until_it_is_opened() {
        let gate = Gate::new();
        gate.join();
        gate.join();
        let (passed, seen) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..2 {
                let (gate, passed) = (&gate, passed.clone());
                scope.spawn(move || passed.send(gate.pass(&mut 0)).unwrap());
            }
            gate.wait_until_parked();
            assert!(seen.try_recv().is_err());
            gate.open();
            assert_eq!(seen.recv().unwrap(), Go::Run);
            assert_eq!(seen.recv().unwrap(), Go::Run);
        });
    }

    #[test]
    fn a_vcpu_learns_once_that_the_machine_has_started_again() {
        let gate = Gate::new();
        gate.join();
        let mut start = 0;
        gate.start_again();
        gate.open();
        assert_eq!(gate.pass(&mut start), Go::Reset);
        assert_eq!(gate.pass(&mut start), Go::Run);
    }

    #[test]
    fn the_end_is_final() {
        let gate = Gate::new();
        gate.join();
        gate.end();
        gate.open();
        gate.close();
        assert_eq!(gate.pass(&mut 0), Go::End);
        gate.leave();
        gate.wait_until_parked();
        gate.wait_until_gone();
    }
}
