//! One vCPU's part in being told, on its own thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pagemend_core::address::Gpa;

use super::vcpu::{Obstacle, Vcpu};
use super::{BANK_BYSTANDER, BANK_OPTIONAL, BANK_REQUIRED, Config, Inner, MachineChecks};
use crate::x86::bits::{MCG_STATUS_MCIP, MCI_STATUS_VAL, MSR_MCG_STATUS, bank_of_status};
use crate::x86::{MachineCheck, Vendor};

/// How long to let a vCPU run before trying again, where nothing says when. Short against the
/// seconds in which a guest boots, and nothing against the cost of running one.
pub const RETRY: Duration = Duration::from_millis(100);

/// What a vCPU was given before it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Frames of which it was told.
    pub told: Vec<Gpa>,
    /// It was made a part of another vCPU's machine check.
    pub summoned: bool,
    /// Others have to take part in its machine check: kick all other vCPUs.
    pub kick_others: bool,
    /// Why it was not given (all of) what waits.
    pub obstacle: Option<Obstacle>,
    /// Kick the vCPU after this time, if it has not left the guest before.
    pub retry_after: Option<Duration>,
}

/// What became of telling a vCPU what it has touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a vCPU that could not be told must not simply run on"]
pub enum Answer {
    /// It takes a machine check when it runs next.
    Told {
        /// Others have to take part in it: kick all other vCPUs.
        kick_others: bool,
        /// The guest had left an earlier record in the bank, which is overwritten.
        overflow: bool,
    },
    /// It cannot be told, and cannot go on without.
    Refused(Obstacle),
}

/// Tells one vCPU. Belongs on its thread.
#[derive(Debug)]
pub struct Teller {
    checks: Arc<MachineChecks>,
    vcpu: usize,
    acknowledged: Vec<Gpa>,
}

impl Teller {
    pub(super) fn new(checks: Arc<MachineChecks>, vcpu: usize) -> Self {
        Self {
            checks,
            vcpu,
            acknowledged: vec![],
        }
    }

    /// How its guest is told.
    pub fn config(&self) -> &Config {
        self.checks.config()
    }

    /// Gives the vCPU what waits for it, as far as it can take it. To be called each time before
    /// it enters the guest.
    pub fn before_run<V: Vcpu>(&mut self, vcpu: &mut V) -> Result<Outcome, V::Error> {
        let mut outcome = Outcome::default();
        if self.checks.waiting.load(Ordering::Acquire) == 0 {
            return Ok(outcome);
        }
        let mut inner = self.checks.inner();
        let told = self.summon(&mut inner, vcpu, &mut outcome).and_then(|()| {
            while self.tell_next(&mut inner, vcpu, &mut outcome)? {}
            Ok(())
        });
        self.checks.publish(&inner);
        told?;
        let unseen = outcome.obstacle.filter(|it| it.ends_unseen());
        outcome.retry_after = unseen.map(|_| RETRY);
        Ok(outcome)
    }

    /// Makes the vCPU a part of another's machine check, if it has to be.
    fn summon<V: Vcpu>(
        &self,
        inner: &mut Inner,
        vcpu: &mut V,
        outcome: &mut Outcome,
    ) -> Result<(), V::Error> {
        let state = vcpu.state()?;
        let seat = &mut inner.seats[self.vcpu];
        seat.inside = state.in_progress();
        seat.enabled = Some(state.enabled());
        if !seat.summoned {
            return Ok(());
        }
        match state.obstacle(&vcpu.bank(BANK_BYSTANDER)?) {
            // It comes when it has come out of the one that it is in.
            obstacle @ Some(Obstacle::InProgress) => {
                outcome.obstacle = obstacle;
                return Ok(());
            }
            // The guest does not count on it.
            Some(_) => {}
            None => {
                vcpu.inject(&MachineCheck::bystander(BANK_BYSTANDER))?;
                seat.inside = true;
                outcome.summoned = true;
            }
        }
        seat.summoned = false;
        Ok(())
    }

    /// Tells the first frame in line; false where that has to wait.
    fn tell_next<V: Vcpu>(
        &self,
        inner: &mut Inner,
        vcpu: &mut V,
        outcome: &mut Outcome,
    ) -> Result<bool, V::Error> {
        let Some(gpa) = inner.queue.first() else {
            return Ok(false);
        };
        let config = &self.checks.config;
        if config.signal.is_exception() && !config.recovers {
            outcome.obstacle = Some(Obstacle::NotRecoverable);
            return Ok(false);
        }
        let state = vcpu.state()?;
        let for_all = config.signal.is_exception() && self.is_for_all(state.local());
        let mut free = None;
        for bank in BANK_OPTIONAL..config.banks {
            let registers = vcpu.bank(bank)?;
            if let obstacle @ Some(_) = state.obstacle(&registers) {
                outcome.obstacle = obstacle;
                return Ok(false);
            }
            if !registers.is_occupied() {
                free = Some(bank);
                break;
            }
        }
        let Some(bank) = free else {
            outcome.obstacle = Some(Obstacle::BanksFull);
            return Ok(false);
        };
        if for_all && inner.seats.iter().any(|seat| seat.summoned || seat.inside) {
            outcome.obstacle = Some(Obstacle::OthersInProgress);
            return Ok(false);
        }
        let (vendor, signal) = (config.vendor, config.signal);
        let record = MachineCheck::action_optional(vendor, signal, bank, gpa, state.local());
        vcpu.inject(&record)?;
        if record.is_exception() {
            inner.seats[self.vcpu].inside = true;
        }
        if for_all {
            outcome.kick_others |= self.summon_others(inner);
        }
        let unread = &mut inner.seats[self.vcpu].unread;
        // The bank was free: whatever it held before, the guest is done with.
        unread.retain(|(held, _)| *held != bank);
        unread.push((bank, gpa));
        inner.queue.remove(gpa);
        inner.counts.optional += 1;
        outcome.told.push(gpa);
        Ok(true)
    }

    /// The vCPU has touched the lost frame of `gpa`: tells it now.
    pub fn touched<V: Vcpu>(&mut self, vcpu: &mut V, gpa: Gpa) -> Result<Answer, V::Error> {
        let mut inner = self.checks.inner();
        let state = vcpu.state()?;
        inner.seats[self.vcpu].enabled = Some(state.enabled());
        let bank = vcpu.bank(BANK_REQUIRED)?;
        let obstacle = match self.checks.config.recovers {
            true => state.obstacle(&bank),
            false => Some(Obstacle::NotRecoverable),
        };
        if let Some(obstacle) = obstacle {
            inner.counts.refused += 1;
            return Ok(Answer::Refused(obstacle));
        }
        let vendor = self.checks.config.vendor;
        let local = state.local();
        vcpu.inject(&MachineCheck::action_required(
            vendor,
            BANK_REQUIRED,
            gpa,
            local,
        ))?;
        inner.counts.required += 1;
        inner.queue.remove(gpa.frame());
        let seat = &mut inner.seats[self.vcpu];
        seat.inside = true;
        seat.touched = Some(gpa.frame());
        // One that was to come to another's machine check comes with its own.
        let kick_others = !std::mem::take(&mut seat.summoned)
            && self.is_for_all(local)
            && self.summon_others(&mut inner);
        self.checks.publish(&inner);
        Ok(Answer::Told {
            kick_others,
            overflow: bank.is_occupied(),
        })
    }

    /// The guest has read a register. To be called for those that are [watched](super::watched),
    /// by VMMs that can.
    pub fn read(&mut self, msr: u32) {
        if let Some(bank) = bank_of_status(msr) {
            let mut inner = self.checks.inner();
            let seat = &mut inner.seats[self.vcpu];
            let read = seat.unread.extract_if(.., |(held, _)| *held == bank);
            seat.read.extend(read);
        }
    }

    /// The guest has written a register: the same. A record that it clears without having read it
    /// waits again.
    pub fn written(&mut self, msr: u32, value: u64) {
        if msr == MSR_MCG_STATUS && value & MCG_STATUS_MCIP == 0 {
            let touched = self.checks.inner().seats[self.vcpu].touched.take();
            self.acknowledged.extend(touched);
        }
        let Some(bank) = bank_of_status(msr).filter(|_| value & MCI_STATUS_VAL == 0) else {
            return;
        };
        let mut inner = self.checks.inner();
        let seat = &mut inner.seats[self.vcpu];
        let read = seat.read.extract_if(.., |(held, _)| *held == bank);
        self.acknowledged.extend(read.map(|(_, gpa)| gpa));
        let unread = &mut seat.unread;
        let Some(at) = unread.iter().position(|(held, _)| *held == bank) else {
            return;
        };
        let (_, gpa) = unread.swap_remove(at);
        inner.queue.put_back(gpa);
        inner.counts.optional -= 1;
        inner.counts.repeated += 1;
        self.checks.publish(&inner);
    }

    /// Frames of which the guest has shown that it knows, since this was called last: it has ended the
    /// machine check in which it was told of what it touched, or has read a record and cleared it. Only
    /// a VMM that says what the guest reads and writes gets any.
    pub fn take_acknowledged(&mut self) -> Vec<Gpa> {
        std::mem::take(&mut self.acknowledged)
    }

    /// Whether a machine check on this vCPU is one on all.
    fn is_for_all(&self, local: bool) -> bool {
        self.checks.config.vendor == Vendor::Intel && !local
    }

    /// Has all others take part; false where there are none.
    fn summon_others(&self, inner: &mut Inner) -> bool {
        for (vcpu, seat) in inner.seats.iter_mut().enumerate() {
            seat.summoned |= vcpu != self.vcpu;
        }
        self.checks.config.vcpus > 1
    }
}
