//! A virtual machine whose memory fails under it: its vCPU goes on, and is told of what is lost.

use crate::guest::{Guest, Kind, gpa};
use crate::inject;
use crate::machine::{Machine, Read};
use crate::memory::KIB_4;
use crate::pattern::word;
use crate::registry::{Family, Scenario};
use crate::trial::Trial;
use anyhow::{Result, anyhow};
use pagemend::VcpuFault;
use pagemend_lab_protocol::{ScenarioInfo, Set};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

inventory::submit! {
    Family(|| {
        let kinds = [Kind::Hugetlb2M, Kind::Hugetlb1G, Kind::Shmem, Kind::Anonymous];
        kinds.map(|kind| Scenario {
            info: ScenarioInfo {
                name: format!("pagemend/{}/vcpu", kind.name()),
                proves: format!("a vCPU that runs in {} while it fails reads every healthy word, and is told where 4 KiB are lost", kind.kind()),
                needs: kind.needs(1),
                set: if kind == Kind::Hugetlb1G { Set::All } else { Set::Default },
            },
            run: Box::new(move |t| vcpu(t, kind)),
        }).into()
    })
}

/// Where in each frame the guest reads.
const WORD: usize = 0x128;

fn vcpu(t: &mut Trial, kind: Kind) -> Result<()> {
    // A mend waits until the vCPU is in the middle of it.
    let met = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&met);
    let guest = Guest::with(kind, kind.len(), |_, builder| {
        let pause = move |_| {
            while !theirs.load(Ordering::Acquire) {
                thread::yield_now();
            }
            Ok(())
        };
        builder.pause_hooks(pause, |_| ())
    })?;
    let bad = guest.len() / 2 + 0x2_1000;
    let (stop, passes) = (AtomicBool::new(false), AtomicU64::new(0));
    let seen = thread::scope(|scope| {
        let running = scope.spawn(|| {
            let seen = run(&guest, met, &stop, &passes);
            // Whoever waits for passes must not wait for a machine that has stopped.
            passes.store(u64::MAX, Ordering::Release);
            seen
        });
        let go_on = || {
            let until = passes.load(Ordering::Acquire).saturating_add(2);
            while passes.load(Ordering::Acquire) < until {
                thread::yield_now();
            }
        };
        go_on();
        let said = inject::madvise_in_use(guest.base() + bad);
        go_on();
        stop.store(true, Ordering::Relaxed);
        said?;
        running.join().map_err(|_| anyhow!("the vCPU's thread died"))?
    })?;
    t.saw("words read by the guest", seen.words);
    t.saw("times that the vCPU waited for a mend", seen.mended);
    t.equal("wrong words", seen.wrong, 0);
    let lost = VcpuFault::Lost { gpa: gpa(bad) };
    t.claim("the vCPU met the lost frame", !seen.faults.is_empty());
    t.claim("and nothing else", seen.faults.iter().all(|fault| *fault == lost));
    guest.lost_only(t, &[bad]);
    Ok(())
}

#[derive(Default)]
struct Seen {
    words: u64,
    wrong: u64,
    mended: u32,
    faults: Vec<VcpuFault>,
}

/// Reads a word of each frame, over and over.
fn run(guest: &Guest, met: Arc<AtomicBool>, stop: &AtomicBool, passes: &AtomicU64) -> Result<Seen> {
    let mut machine = Machine::new(guest, met)?;
    let step = if guest.len() > 64 << 20 { 64 * KIB_4 + KIB_4 } else { KIB_4 };
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        // The frame that fails is read in every pass, whatever the step.
        let offsets = (0..guest.len()).step_by(step).chain([guest.len() / 2 + 0x2_1000]);
        for frame in offsets {
            let Read { value, mended } = machine.read(frame + WORD)?;
            seen.mended += mended;
            seen.words += 1;
            match value {
                Ok(value) => seen.wrong += u64::from(value != word(frame + WORD) as u32),
                Err(fault) => seen.faults.push(fault),
            }
        }
        passes.fetch_add(1, Ordering::Release);
    }
    Ok(seen)
}
