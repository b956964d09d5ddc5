//! The cases inside a guest: a machine of its own for each turn, because a process has one mender.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pagemend::{Cause, Filling, Gpa, GpaRange, GuestMemory, Inject, Segment};
use pagemend_vmm::guests::memcycler::{self, Work};
use pagemend_vmm::seccomp::Seccomp;
use pagemend_vmm::{Console, CpuModel, End, MemoryConfig, Notify, Payload, Untold, Vm, VmConfig};

use super::cases::{Case, Policy, Samples, Setup, heal};
use super::field::{Part, SLOT, parts};
use super::{Access, Pattern};
use crate::bench::error::BenchError;
use crate::bench::pieces::Piece;
use crate::bench::room::Room;
use crate::progress::Progress;

/// Memory that can be used besides the guest's own: all of it lies below the hole at 3 GiB.
pub(super) const MOST: u64 = 2 << 30;

/// Where the memory begins that is used: before is the guest's own.
fn own(setup: &Setup) -> u64 {
    setup.huge.bytes().max(16 << 20)
}

/// What one guest takes.
pub(super) fn room(setup: &Setup) -> Room {
    let hits = setup.cases.iter().map(|case| case.lost.len() as u64).max();
    Room {
        guest: Some((setup.huge.size(), own(setup) + setup.bytes)),
        other: hits.unwrap_or(0) * setup.huge.bytes(),
    }
}

/// Measures all cases in turn.
pub(super) fn measure(setup: &Setup, interrupted: &AtomicBool) -> Result<Vec<Samples>, BenchError> {
    let mut all = vec![Samples::default(); setup.cases.len()];
    let turns = u64::from(setup.rounds) * all.len() as u64;
    let progress = Progress::new("guests that use their memory", turns);
    for round in 0..setup.rounds as usize {
        for turn in 0..all.len() {
            if interrupted.load(Ordering::Relaxed) {
                return Err(BenchError::Interrupted);
            }
            let number = (turn + round) % all.len();
            let case = &setup.cases[number];
            let samples = &mut all[number];
            let (rates, pieces) = take_turn(setup, case)?;
            for (rates, rate) in samples.rates.iter_mut().zip(rates) {
                rates.push(rate);
            }
            samples.pieces = pieces;
            progress.advance();
        }
    }
    Ok(all)
}

fn config(setup: &Setup) -> VmConfig {
    VmConfig {
        memory: MemoryConfig {
            bytes: own(setup) + setup.bytes,
            kind: setup.huge.kind(),
            policy: pagemend::Policy::Mend,
            filling: Filling::Eager,
            heal: pagemend::Heal::Never,
        },
        vcpus: setup.threads,
        cpu: CpuModel::Host,
        payload: Payload::Flat(memcycler::code()),
        console: Console::Off,
        channel: None,
        untold: Untold::Stop,
        early: true,
        seccomp: Seccomp::On,
        notify: Notify::Mce,
    }
}

/// Runs one guest: its rates in the order of [`Access::ALL`], and what its memory consists of.
fn take_turn(setup: &Setup, case: &Case) -> Result<([f64; 3], Vec<Piece>), BenchError> {
    let (own, all) = (own(setup), own(setup) + setup.bytes);
    let memory = Arc::new(GuestMemory::new(setup.huge.kind(), all)?);
    let vm = Vm::with_memory(config(setup), vec![Arc::clone(&memory)])?;
    memcycler::fill(vm.ram(), own..all)?;
    let mut pieces = setup.split_pieces(case);
    match case.policy {
        Policy::Healthy | Policy::HealthyAgain | Policy::Watched => {}
        Policy::Split => {
            for lost in &case.lost {
                memory
                    .split(own + setup.page_of(*lost), setup.huge.bytes())
                    .map_err(BenchError::system("copying to pages of 4 KiB"))?;
            }
        }
        Policy::Mend | Policy::MendHeal => {
            let errors = vm.pagemend().emulated_errors();
            for lost in &case.lost {
                errors.inject(Gpa::new(own + lost), Cause::ActionOptional)?;
            }
            if case.policy == Policy::MendHeal {
                vm.ram()
                    .ranges()
                    .try_for_each(|range| heal(vm.pagemend(), range))?;
            }
            let mended = vm.pagemend().totals().mended;
            if mended != case.lost.len() as u64 {
                return Err(BenchError::NotMended {
                    why: format!("{mended} of {} pages were mended", case.lost.len()),
                });
            }
            pieces = Piece::of(vm.pagemend().segments().into_iter().filter_map(|segment| {
                let start = segment.gpa.start().get().max(own);
                let len = segment.gpa.end().get().checked_sub(start)?;
                let gpa = GpaRange::new(Gpa::new(start), len).filter(|used| !used.is_empty())?;
                Some(Segment { gpa, ..segment })
            }));
        }
    }
    let ranges = parts(setup.bytes / SLOT, setup.threads.into(), &setup.left_out);
    let ranges: Vec<Vec<Range<u64>>> = ranges
        .iter()
        .map(Part::ranges)
        .map(|ranges| {
            let moved = ranges.into_iter();
            moved
                .map(|range| own + range.start..own + range.end)
                .collect()
        })
        .collect();
    let Pattern::Stride(step) = setup.pattern else {
        unreachable!("the guest knows no random order, which the arguments exclude");
    };
    let khz = f64::from(vm.tsc_khz());
    let ticks = (khz * setup.turn.as_secs_f64() * 1e3) as u64;
    let phases = Access::ALL.map(|access| {
        let access = match access {
            Access::Both => memcycler::Access::Both,
            Access::Reads => memcycler::Access::Reads,
            Access::Writes => memcycler::Access::Writes,
        };
        (access, ticks)
    });
    memcycler::set(vm.ram(), &ranges, step, &phases)?;
    vm.resume()?;
    if let End::Crash(reason) = vm.run_to_the_end()? {
        return Err(BenchError::Guest(reason));
    }
    let work = memcycler::work(vm.ram(), setup.threads, phases.len())?;
    let wrong = work.iter().flatten().map(|work| work.wrong).sum();
    if wrong > 0 {
        return Err(BenchError::Wrong { wrong });
    }
    let rate = |work: &Work| work.words as f64 / (work.ticks as f64 / khz * 1e3);
    let together = |phase: usize| work.iter().map(|vcpu| rate(&vcpu[phase])).sum();
    Ok(([0, 1, 2].map(together), pieces))
}
