//! A 1 GiB page that is mended on demand: who touches it goes on at once with the right bytes, by
//! whatever way, and all of it comes back.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use pagemend_core::address::{GpaRange, PageSize};
use pagemend_core::event::Step;
use pagemend_core::ledger::Cause;
use pagemend_core::plan::Action;
use pagemend_core::policy::Filling;
use pagemend_linux::probe::Pool;
use pagemend_linux::{Builder, Inject, MemoryKind, resize_pool};

use crate::guest::{GIB, Guest, MIB, gpa, need_pool, pattern, range, turn};
use crate::machine::Machine;

const KIND: MemoryKind = MemoryKind::Hugetlb(PageSize::SIZE_1G);
const LOST: u64 = 700 * MIB + 0x3000;

fn guest(configure: impl FnOnce(Builder) -> Builder) -> Guest {
    Guest::with(KIND, GIB, |builder| {
        need_pool(PageSize::SIZE_2M, 512);
        configure(builder)
    })
}

/// Whether the pool can be grown so far: gigantic pages take memory that nothing has cut up.
fn has_gigantic_pages(pages: u64) -> bool {
    let _turn = turn();
    let pool = Pool::of(PageSize::SIZE_1G).expect("a pool of 1 GiB");
    let missing = pages.saturating_sub(pool.spare());
    let wanted = pool.total + missing;
    let got = resize_pool(PageSize::SIZE_1G, wanted).ok();
    if got != Some(wanted) {
        resize_pool(PageSize::SIZE_1G, pool.total).expect("as it was");
    }
    got == Some(wanted)
}

/// The parts that came back, and whether somebody waited for them.
fn fills(guest: &Guest) -> Vec<(GpaRange, bool)> {
    let fill = |step| match step {
        Step::Fill { part, touched, .. } => Some((part, touched)),
        _ => None,
    };
    guest.steps().into_iter().filter_map(fill).collect()
}

fn touched(guest: &Guest) -> Vec<GpaRange> {
    let touched = fills(guest).into_iter().filter(|(_, touched)| *touched);
    touched.map(|(part, _)| part).collect()
}

#[test]
fn whoever_touches_the_page_waits_for_2_mib_of_it() {
    let guest = guest(|builder| builder);
    guest.fail(LOST);
    let offset = 300 * MIB + 0x140;
    assert_eq!(guest.load(offset), pattern(gpa(offset)));
    let steps = guest.steps();
    let done = steps
        .iter()
        .position(|step| matches!(step, Step::Done { .. }));
    let filled: Vec<GpaRange> = steps[..done.unwrap()]
        .iter()
        .filter_map(|step| match step {
            Step::Fill { part, .. } => Some(*part),
            _ => None,
        })
        .collect();
    assert_eq!(filled, [range(300 * MIB, 2 * MIB)]);
    guest.check_all_but(&[LOST]);
    guest.pagemend.settle();
    assert_eq!(guest.pagemend.progress(), []);
    assert_eq!(guest.outcomes()[0], (Action::Mend, vec![]));
    assert_eq!(guest.pagemend.totals().mended, 1);
    assert!(matches!(
        guest.steps().iter().rev().find(|step| matches!(step, Step::Complete { .. })),
        Some(Step::Complete { recovered_bytes, .. }) if *recovered_bytes == GIB - 4096
    ));
}

#[test]
fn an_error_that_nobody_has_touched_is_told_first_and_settling_waits_for_the_rest() {
    let guest = guest(|builder| builder);
    guest.fail_untouched(LOST);
    guest.pagemend.settle();
    assert_eq!(guest.pagemend.progress(), []);
    assert_eq!(guest.recorded(), [LOST]);
    assert_eq!(touched(&guest), [range(700 * MIB, 2 * MIB)]);
    let filled: u64 = fills(&guest).iter().map(|(part, _)| part.len()).sum();
    assert_eq!(filled, GIB, "each part once");
    guest.check_all_but(&[LOST]);
}

/// Words that the threads of a crowd own: one in each of so many frames.
fn owned(thread: u64) -> impl Iterator<Item = u64> {
    (0..GIB)
        .step_by(2 * 4096)
        .map(move |frame| frame + thread * 64)
}

#[test]
fn plain_threads_and_guarded_access_read_what_they_wrote_all_the_while() {
    let guest = guest(|builder| builder);
    let ram = guest.pagemend.memory("ram").unwrap();
    let complete = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (guest, ram, complete) = (&guest, &ram, &complete);
            scope.spawn(move || {
                let mut round = 0;
                let mut last = false;
                while !last {
                    last = complete.load(Ordering::Acquire);
                    for offset in owned(thread).filter(|offset| offset & !0xfff != LOST) {
                        let expected = pattern(gpa(offset)).wrapping_add(round);
                        let next =
                            pattern(gpa(offset)).wrapping_add(if last { 0 } else { round + 1 });
                        if thread % 2 == 0 {
                            assert_eq!(guest.load(offset), expected, "at {offset:#x}");
                            guest.store(offset, next);
                        } else {
                            assert_eq!(
                                ram.load::<u64>(gpa(offset)),
                                Ok(expected),
                                "at {offset:#x}"
                            );
                            ram.store(gpa(offset), next).unwrap();
                        }
                    }
                    round += 1;
                }
            });
        }
        guest.fail(LOST);
        // Only touches bring it to the mender's notice.
        while guest.pagemend.totals().faults == 0 {
            thread::yield_now();
        }
        guest.pagemend.settle();
        complete.store(true, Ordering::Release);
    });
    assert_eq!(guest.recorded(), [LOST]);
    assert!(!touched(&guest).is_empty());
    guest.check_all_but(&[LOST]);
}

#[test]
fn a_vcpu_goes_on_with_what_it_has_touched_and_is_told_what_is_lost() {
    let guest = guest(|builder| builder);
    let mut machine = Machine::new(&guest);
    guest.fail(LOST);
    for offset in [5 * MIB, 900 * MIB, 5 * MIB + 0x1000] {
        assert_eq!(machine.load(offset).value, Ok(pattern(gpa(offset)) as u32));
    }
    let lost = machine.load(LOST).value;
    assert_eq!(
        lost,
        Err(pagemend_linux::VcpuFault::Lost { gpa: gpa(LOST) })
    );
    assert_eq!(touched(&guest)[..1], [range(4 * MIB, 2 * MIB)]);
    guest.check_all_but(&[LOST]);
}

#[test]
fn more_errors_while_it_comes_back_cost_their_frames() {
    let guest = guest(|builder| builder);
    guest.fail(LOST);
    guest.load(0);
    // Some where it is back, some where it is missing, as it comes.
    let more: Vec<u64> = (0..8).map(|n| n * 120 * MIB + 0x5000).collect();
    for frame in &more {
        guest.fail(*frame);
    }
    let mut lost = more.clone();
    lost.push(LOST);
    lost.sort_unstable();
    // Of an error in what is back already nobody hears before it is touched.
    let ram = guest.pagemend.memory("ram").unwrap();
    for frame in &lost {
        assert!(ram.load::<u64>(gpa(*frame)).is_err(), "{frame:#x}");
    }
    guest.check_all_but(&lost);
}

#[test]
fn a_lease_is_had_when_the_page_is_complete() {
    let guest = guest(|builder| builder);
    guest.fail(LOST);
    guest.load(0);
    let lease = guest.pagemend.lease(range(512 * MIB, 4096)).unwrap();
    assert_eq!(guest.pagemend.progress(), []);
    drop(lease);
    guest.check_all_but(&[LOST]);
}

#[test]
fn several_pages_come_back_side_by_side() {
    if !has_gigantic_pages(2) {
        println!("skipped: this machine has no two free pages of 1 GiB");
        return;
    }
    let guest = Guest::with(KIND, 2 * GIB, |builder| {
        need_pool(PageSize::SIZE_2M, 1024);
        builder
    });
    let lost = [0x3000, GIB + 0x3000];
    for frame in lost {
        guest.fail(frame);
    }
    guest.load(MIB);
    guest.load(GIB + MIB);
    guest.pagemend.settle();
    let half = gpa(GIB);
    let upper: Vec<bool> = fills(&guest)
        .iter()
        .map(|(part, _)| part.start() >= half)
        .collect();
    let changes = upper.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let smaller = upper
        .iter()
        .filter(|upper| **upper)
        .count()
        .min(upper.len() / 2);
    assert!(
        changes >= smaller / 2,
        "{changes} changes in {} fills",
        upper.len()
    );
    assert_eq!(guest.pagemend.totals().mended, 2);
    guest.check_all_but(&lost);
}

#[test]
fn an_eager_region_comes_back_as_one() {
    let guest = Guest::build(
        KIND,
        GIB,
        |region| {
            need_pool(PageSize::SIZE_2M, 512);
            region.filling(Filling::Eager)
        },
        |builder| builder,
    )
    .unwrap();
    guest.fail(LOST);
    guest.load(0);
    assert_eq!(fills(&guest), []);
    assert!(
        guest
            .steps()
            .iter()
            .any(|step| matches!(step, Step::Swap { .. }))
    );
    guest.check_all_but(&[LOST]);
}

/// The word at an address, read by the kernel: an error where a load would be a signal.
fn word(pipe: &(std::io::PipeReader, std::io::PipeWriter), address: *const u64) -> Option<u64> {
    // SAFETY: the kernel reads eight bytes, or says EFAULT.
    let wrote = unsafe { libc::write(pipe.1.as_raw_fd(), address.cast(), 8) };
    let mut word = [0; 8];
    (wrote == 8).then(|| {
        std::io::Read::read_exact(&mut &pipe.0, &mut word).unwrap();
        u64::from_ne_bytes(word)
    })
}

#[test]
fn a_mender_that_ends_leaves_what_is_missing_faulting_and_never_zero() {
    let (tell, told) = mpsc::channel();
    let guest = guest(|builder| {
        builder.listen("progress", move |event| match event.step {
            Step::Fill { touched: false, .. } => tell.send(None).unwrap_or(()),
            Step::Cancel { left_bytes } => tell.send(Some(left_bytes)).unwrap_or(()),
            _ => {}
        })
    });
    guest.fail(LOST);
    guest.load(0);
    assert_eq!(
        told.recv(),
        Ok(None),
        "something came back in the background"
    );
    let Guest {
        pagemend, memory, ..
    } = guest;
    drop(pagemend);
    let left = told.iter().flatten().next().expect("it was cancelled");
    let pipe = std::io::pipe().unwrap();
    let mut missing = 0;
    for offset in (0..GIB).step_by(MIB as usize) {
        let at = memory.as_ptr().wrapping_add(offset as usize).cast::<u64>();
        match word(&pipe, at) {
            None => missing += MIB,
            Some(found) => assert_eq!(found, pattern(gpa(offset)), "at {offset:#x}"),
        }
    }
    assert_eq!(missing, left);
    assert!(missing > 0);
}

#[test]
fn the_same_error_twice_is_refused_whether_it_is_back_or_missing() {
    let guest = guest(|builder| builder);
    guest.fail_untouched(LOST);
    let injector = guest.pagemend.emulated_errors();
    assert!(injector.inject(gpa(LOST), Cause::ActionRequired).is_err());
    guest.check_all_but(&[LOST]);
}
