//! The order and the moment in which a guest is told of its lost frames.
//!
//! A machine check that comes at a bad moment is worse than none: with CR4.MCE clear, or while
//! another is handled, it shuts the processor down; into an occupied bank it overwrites what was
//! there. So:
//!
//! - **A frame that was touched** is told at once, on the vCPU that touched it
//!   ([`Teller::touched`]). Where that vCPU cannot take it the answer is
//!   [`Answer::Refused`] with the [`Obstacle`], and the VMM has to decide what becomes of the
//!   guest: running the vCPU again only leads to the same touch.
//! - **A frame that nobody has touched** waits ([`MachineChecks::lost`]) until some vCPU comes by
//!   that can take it ([`Teller::before_run`]). A guest that touches a waiting frame has thereby
//!   been told of it.
//!
//! The two never meet in a bank: [`BANK_REQUIRED`] is for what was touched, the banks from
//! [`BANK_OPTIONAL`] on are for what was not, and [`BANK_BYSTANDER`] is for vCPUs that only have to
//! be there. Processors have different banks for these as well. So an unread record never costs
//! one that is more urgent, and an Intel guest never sees an overflow, at which it would panic.
//! Only a guest that ends a machine check without clearing [`BANK_REQUIRED`] gets the next with
//! [`MCI_STATUS_OVER`](crate::x86::bits::MCI_STATUS_OVER), as from a processor.
//!
//! # What the VMM does
//!
//! 1. Calls [`Teller::before_run`] on each vCPU's thread before each `KVM_RUN`: where nothing
//!    waits it costs one load.
//! 2. Makes vCPUs leave the guest ("kicks" them, with a signal or `immediate_exit`) when
//!    [`MachineChecks::lost`] or an [`Outcome`] or [`Answer`] asks for it.
//! 3. Hands guest accesses to the registers of [`watched`] to [`Teller::read`] and
//!    [`Teller::written`], if it can see them (KVM: an MSR filter). Then a waiting record is tried
//!    again in the moment in which the guest has made room, and a record that the guest has
//!    cleared without reading it, as at boot, is told again.
//!    What it has dealt with is in [`Teller::take_acknowledged`].
//! 4. Kicks the vCPU after [`Outcome::retry_after`] where that is set: the end of what is in the
//!    way makes no exit.
//! 5. Calls [`MachineChecks::reset`] when the guest is reset.
//!
//! # Machine checks that all processors take
//!
//! An Intel guest that has not opted in to local machine checks expects each on all its processors,
//! and panics if one does not turn up. Each vCPU then has to leave the guest and gets the
//! bystander's record in its next [`Teller::before_run`]. A vCPU that has machine checks off is
//! left out, as it is not among those that the guest waits for. Two that touch lost frames at once
//! meet in one such machine check. None for an untouched frame is begun until all have come out of
//! the last.

mod teller;
mod vcpu;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pagemend_core::address::{Gpa, GpaRange, PageSize};
use serde::Serialize;

pub use teller::{Answer, Outcome, RETRY, Teller};
pub use vcpu::{Bank, Obstacle, State, Vcpu};

use crate::queue::Queue;
pub use crate::queue::Queued;
use crate::x86::bits::{MSR_MCG_STATUS, msr_mci_status};
use crate::x86::{AoSignal, Vendor};

/// The bank of those who only have to be there.
pub const BANK_BYSTANDER: u8 = 8;
/// The bank for frames that were touched: the one that QEMU uses, and that no Linux quirk concerns.
pub const BANK_REQUIRED: u8 = 9;
/// The first bank for frames that were not touched.
pub const BANK_OPTIONAL: u8 = 10;
/// Banks of a vCPU if nothing else is wished: six frames that were not touched at a time.
pub const DEFAULT_BANKS: u8 = 16;

/// How a guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whose rules it follows.
    pub vendor: Vendor,
    /// How it hears of frames that were not touched.
    pub signal: AoSignal,
    /// Whether its processors have what a guest needs to recover from a machine check: AMD's bits
    /// in CPUID, which a VMM can always set, or Intel's [`MCG_SER_P`](crate::x86::bits::MCG_SER_P),
    /// which KVM has not on an AMD host. A guest without is never given one.
    pub recovers: bool,
    /// Banks of each vCPU, as in its MCG_CAP: more than [`BANK_OPTIONAL`].
    pub banks: u8,
    /// How many vCPUs it has.
    pub vcpus: usize,
    /// How many frames of one loss are told. Of a whole huge page that is lost the guest need not
    /// hear 262 144 times: it learns of the others as it touches them.
    pub limit: usize,
}

/// The registers whose accesses by the guest are worth an exit, each with whether reads are, too.
pub fn watched(config: &Config) -> impl Iterator<Item = (u32, bool)> + use<> {
    let banks = (BANK_OPTIONAL..config.banks).map(|bank| (msr_mci_status(bank), true));
    std::iter::once((MSR_MCG_STATUS, false)).chain(banks)
}

/// The machine checks of one guest: what waits, and where each vCPU is.
#[derive(Debug)]
pub struct MachineChecks {
    config: Config,
    /// How much [`Inner`] has for vCPUs to do: what [`Teller::before_run`] looks at first.
    waiting: AtomicUsize,
    inner: Mutex<Inner>,
}

/// What was told so far and what was not, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Told when they were touched.
    pub required: u64,
    /// Told untouched.
    pub optional: u64,
    /// Not told because of the [limit](Config::limit).
    pub withheld: u64,
    /// Not told because the guest was reset before.
    pub dropped: u64,
    /// Touched when the vCPU could not be told.
    pub refused: u64,
    /// Cleared by the guest without having been read, and told again.
    pub repeated: u64,
}

#[derive(Debug)]
struct Inner {
    queue: Queue,
    seats: Vec<Seat>,
    counts: Counts,
}

/// What is known of one vCPU.
#[derive(Clone, Debug, Default)]
struct Seat {
    /// CR4.MCE when it was last looked at.
    enabled: Option<bool>,
    /// It has to take part in another's machine check.
    summoned: bool,
    /// It was given a machine check, and has not been seen outside of it since.
    inside: bool,
    /// Records in its banks that the guest has not read.
    unread: Vec<(u8, Gpa)>,
    /// Those that it has read, and not cleared yet.
    read: Vec<(u8, Gpa)>,
    /// What it has touched, and is told of in the machine check that it is in.
    touched: Option<Gpa>,
}

impl MachineChecks {
    /// For a guest in which nothing was lost yet.
    ///
    /// # Panics
    ///
    /// If there is no bank for untouched frames.
    pub fn new(config: Config) -> Arc<Self> {
        assert!(
            config.banks > BANK_OPTIONAL,
            "a guest needs more than {BANK_OPTIONAL} machine-check banks"
        );
        Arc::new(Self {
            config,
            waiting: AtomicUsize::new(0),
            inner: Mutex::new(Inner {
                queue: Queue::default(),
                seats: vec![Seat::default(); config.vcpus],
                counts: Counts::default(),
            }),
        })
    }

    /// How the guest is told.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What tells the vCPU with this number, for its thread.
    ///
    /// # Panics
    ///
    /// If the guest has no such vCPU.
    pub fn teller(self: &Arc<Self>, vcpu: usize) -> Teller {
        assert!(vcpu < self.config.vcpus, "the guest has no vCPU {vcpu}");
        Teller::new(Arc::clone(self), vcpu)
    }

    /// Frames are lost: they wait until a vCPU can be told, or touches them. `lost` is one loss, to
    /// which the limit applies. To be called from wherever losses are heard of, as a listener of
    /// the mender; where frames were added, all vCPUs are then to be kicked.
    ///
    /// A frame that is in the line when it is touched is told once. Where another vCPU is told of it
    /// in the moment between, the guest hears of it both ways.
    pub fn lost(&self, lost: impl IntoIterator<Item = GpaRange>) -> Queued {
        let mut inner = self.inner();
        let queued = inner.queue.add(lost, self.config.limit);
        inner.counts.withheld += queued.withheld;
        self.publish(&inner);
        queued
    }

    /// Frames that are to be told by another way wait here again. The limit was theirs there.
    pub fn wait(&self, frames: impl IntoIterator<Item = Gpa>) -> u64 {
        let pages = frames.into_iter();
        let pages = pages.map(|gpa| GpaRange::page(gpa, PageSize::SIZE_4K));
        let mut inner = self.inner();
        let queued = inner.queue.add(pages, usize::MAX);
        self.publish(&inner);
        queued.added
    }

    /// What waits is told by another way: it is given back, and does not wait any more.
    pub fn take_waiting(&self) -> Vec<Gpa> {
        let mut inner = self.inner();
        let taken = inner.queue.take();
        self.publish(&inner);
        taken
    }

    /// Whether the guest takes machine checks: CR4.MCE of the vCPUs that were looked at since the
    /// last reset, which they are when something waits or they touch what is lost. True where one
    /// has it set.
    pub fn enabled(&self) -> Option<bool> {
        let inner = self.inner();
        inner.seats.iter().filter_map(|seat| seat.enabled).max()
    }

    /// Whether there is anything for vCPUs to do.
    pub fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) != 0
    }

    /// Frames that wait to be told, first in line first.
    pub fn waiting(&self) -> Vec<Gpa> {
        self.inner().queue.iter().collect()
    }

    /// What was told so far and what was not.
    pub fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// The guest is reset: what waits, and what lies unread in its banks, is not told any more,
    /// and given back; that includes the last frame in each bank where the VMM does not say what the
    /// guest reads. To be called while no vCPU runs; their registers are the VMM's to reset.
    pub fn reset(&self) -> Vec<Gpa> {
        let mut inner = self.inner();
        let mut dropped: Vec<Gpa> = inner.queue.take();
        for seat in &mut inner.seats {
            dropped.extend(std::mem::take(seat).unread.iter().map(|(_, gpa)| *gpa));
        }
        inner.counts.dropped += dropped.len() as u64;
        self.publish(&inner);
        dropped
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can panic half way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how much there is to do to those who look without the lock.
    fn publish(&self, inner: &Inner) {
        let summoned = inner.seats.iter().filter(|seat| seat.summoned).count();
        self.waiting
            .store(inner.queue.len() + summoned, Ordering::Release);
    }
}
