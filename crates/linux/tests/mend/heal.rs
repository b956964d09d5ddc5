//! Heals on real memory: huge mappings again, under threads that write all the while, and lost frames
//! that hold the fill.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use pagemend_core::address::{FRAME_SIZE, GpaRange, PageSize};
use pagemend_core::event::Step;
use pagemend_core::host::FILL;
use pagemend_core::ledger::Enforcement;
use pagemend_core::mender::{Healed, Unhealed};
use pagemend_core::policy::{Filling, Heal};
use pagemend_linux::MemoryKind;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::child;
use crate::guest::{GIB, Guest, MIB, frames, gpa, leave_in_pool, need_pool, pattern, range};
use crate::smaps::{check_page_sizes, mappings};
use crate::wait;

const KIND: MemoryKind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
const PAGE: u64 = 2 * MIB;
/// Two frames side by side and one at the end of the page.
const LOST: [u64; 3] = [PAGE + 0x3000, PAGE + 0x4000, 2 * PAGE - 0x1000];

fn mended() -> Guest {
    mended_with(Heal::Never)
}

fn mended_with(heal: Heal) -> Guest {
    let guest = Guest::build(KIND, 8 * MIB, |region| region.heal(heal), |builder| builder);
    let guest = guest.unwrap();
    fail(&guest);
    guest
}

fn fail(guest: &Guest) {
    for frame in LOST {
        guest.fail(frame);
    }
    guest.load(PAGE);
}

fn heal(guest: &Guest) -> Healed {
    guest.pagemend.heal(range(0, guest.memory.len())).unwrap()
}

fn assert_healed(healed: &Healed) {
    let lost = vec![range(LOST[0], 2 * FRAME_SIZE), range(LOST[2], FRAME_SIZE)];
    assert_eq!(healed.failed, []);
    assert_eq!(healed.healed, [range(PAGE, PAGE)]);
    assert_eq!(healed.entrusted, lost);
}

/// Every word but those of lost frames is as it was written; the latter can be read by a plain load,
/// and hold the fill.
fn check_filled(guest: &Guest, lost: &[u64]) {
    let (words, rest) = FILL.as_chunks::<8>();
    assert!(rest.is_empty());
    for frame in frames(0, guest.memory.len()) {
        for offset in (frame..frame + FRAME_SIZE).step_by(8) {
            let expected = match lost.contains(&frame) {
                true => u64::from_ne_bytes(words[(offset / 8 % 2) as usize]),
                false => pattern(gpa(offset)),
            };
            assert_eq!(guest.load(offset), expected, "at {offset:#x}");
        }
    }
    assert_eq!(guest.recorded(), lost);
}

fn enforcement(guest: &Guest, frame: u64) -> Option<Enforcement> {
    let ledger = |ledger: &pagemend_core::ledger::Ledger| ledger.enforcement(gpa(frame));
    guest.pagemend.with_ledger(ledger)
}

/// Bytes of guest memory at `offset` in mappings of 2 MiB.
fn huge_bytes(guest: &Guest, offset: u64) -> u64 {
    let start = guest.memory.hva().get() + offset;
    let vmas = mappings(start, start + PAGE);
    vmas.iter().map(|vma| vma.huge_shmem).sum()
}

#[test]
fn a_healed_stretch_is_mapped_as_one_huge_page_and_lost_frames_hold_the_fill() {
    let guest = mended();
    assert_eq!(check_page_sizes(&guest)[2], PAGE);
    assert_eq!(huge_bytes(&guest, PAGE), 0);
    assert_healed(&heal(&guest));
    assert_eq!(check_page_sizes(&guest), [6 * MIB, PAGE, 0]);
    assert_eq!(huge_bytes(&guest, PAGE), PAGE);
    check_filled(&guest, &LOST);
    for frame in LOST {
        assert_eq!(enforcement(&guest, frame), Some(Enforcement::Guest));
        guest.store(frame, 7);
        assert_eq!(guest.load(frame), 7);
    }
    assert_eq!(guest.pagemend.totals().healed, 1);
}

#[test]
fn the_ledger_and_the_event_say_so_before_anyone_can_read_the_fill() {
    let guest = mended();
    let before = guest.steps().len();
    heal(&guest);
    let steps = guest.steps();
    let [
        Step::Entrust { lost },
        Step::Heal {
            lost: healed,
            segments,
        },
    ] = &steps[before..]
    else {
        panic!("{:?}", &steps[before..]);
    };
    assert_eq!(lost, healed);
    assert_eq!(segments[0].page_size, PageSize::SIZE_2M);
}

/// Adds to every word but those of lost frames, pass after pass, until `stop`; gives the passes.
fn count(guest: &Guest, thread: u64, stop: &AtomicBool) -> u64 {
    let mut passes = 0;
    while !stop.load(Ordering::Acquire) {
        for frame in frames(PAGE, PAGE) {
            if LOST.contains(&frame) {
                continue;
            }
            for offset in (frame + 8 * thread..frame + FRAME_SIZE).step_by(32) {
                let expected = pattern(gpa(offset)).wrapping_add(passes);
                assert_eq!(guest.load(offset), expected, "at {offset:#x}");
                guest.store(offset, expected.wrapping_add(1));
            }
        }
        passes += 1;
    }
    passes
}

#[test]
fn threads_that_write_all_the_while_lose_nothing() {
    for _ in 0..20 {
        let guest = mended();
        let stop = AtomicBool::new(false);
        let passes: Vec<u64> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let (guest, stop) = (&guest, &stop);
                    scope.spawn(move || count(guest, thread, stop))
                })
                .collect();
            // Who is at a fault holds a page, and is in the way if it does not come to run.
            let mut healed = heal(&guest);
            for _ in 0..100 {
                if healed.failed.is_empty() {
                    break;
                }
                healed = heal(&guest);
            }
            stop.store(true, Ordering::Release);
            let passes = threads.into_iter().map(|one| one.join().unwrap());
            let passes = passes.collect();
            assert_healed(&healed);
            passes
        });
        for frame in frames(PAGE, PAGE) {
            for offset in (frame..frame + FRAME_SIZE).step_by(8) {
                let passes = passes[(offset / 8 % 4) as usize];
                let expected = pattern(gpa(offset)).wrapping_add(passes);
                assert!(LOST.contains(&frame) || guest.load(offset) == expected);
            }
        }
    }
}

#[test]
fn where_there_are_no_huge_pages_the_marks_stay_and_the_reason_is_given() {
    let name = "heal::where_there_are_no_huge_pages_the_marks_stay_and_the_reason_is_given";
    child::passes(name, || {
        let guest = mended();
        // SAFETY: prctl with these numbers takes no pointers.
        let disabled = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
        assert_eq!(disabled, 0);
        let healed = heal(&guest);
        assert_eq!((healed.healed, healed.entrusted), (vec![], vec![]));
        let [Unhealed { stretch, reason }] = &healed.failed[..] else {
            panic!("{:?}", healed.failed);
        };
        let why = reason.to_string();
        assert_eq!(*stretch, range(PAGE, PAGE));
        assert!(why.contains("no transparent huge page"), "{why}");
        assert!(matches!(guest.steps().last(), Some(Step::Fail { .. })));
        guest.check_all_but(&LOST);
        assert_eq!(enforcement(&guest, LOST[0]), Some(Enforcement::Host));
    });
}

/// From now on the calling thread cannot move memory.
fn forbid_moves() {
    let filter = SeccompFilter::new(
        [(libc::SYS_mremap, vec![])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
}

#[test]
fn where_the_swap_fails_the_marks_stay_and_the_ledger_says_so_again() {
    // Listeners run on the mender's thread, which moves memory right after this step.
    let guest = Guest::with(KIND, 8 * MIB, |builder| {
        builder.listen("saboteur", |event| {
            if matches!(event.step, Step::Entrust { .. }) {
                forbid_moves();
            }
        })
    });
    fail(&guest);
    let healed = heal(&guest);
    assert_eq!((healed.healed, healed.failed.len()), (vec![], 1));
    let steps = guest.steps();
    let last = &steps[steps.len() - 3..];
    assert!(
        matches!(
            last,
            [
                Step::Entrust { .. },
                Step::TakeBack { .. },
                Step::Fail { .. }
            ]
        ),
        "{last:?}"
    );
    guest.check_all_but(&LOST);
    assert_eq!(enforcement(&guest, LOST[0]), Some(Enforcement::Host));
}

/// Kernel I/O into a page that it has pinned goes on while the stretch around it is healed, or is not.
/// Gives why it was not.
fn heal_under_io(guest: &Guest) -> Option<String> {
    const DATA: u64 = 0x0bad_cafe_0bad_cafe;
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut ring = IoUring::new(2).unwrap();
    let buffer = libc::iovec {
        iov_base: guest.word(PAGE).cast(),
        iov_len: 4096,
    };
    // SAFETY: guest memory that outlives the ring.
    unsafe { ring.submitter().register_buffers(&[buffer]) }.unwrap();
    let fd = types::Fd(reader.as_raw_fd());
    let read = opcode::ReadFixed::new(fd, guest.word(PAGE).cast(), 8, 0).build();
    // SAFETY: the buffer is registered, and the pipe lives as long as the ring.
    unsafe { ring.submission().push(&read) }.unwrap();
    ring.submit().unwrap();
    let healed = heal(guest);
    writer.write_all(&DATA.to_ne_bytes()).unwrap();
    ring.submit_and_wait(1).unwrap();
    assert_eq!(guest.load(PAGE), DATA);
    guest.store(PAGE, pattern(gpa(PAGE)));
    let why = healed.failed.first();
    why.map(|unhealed| unhealed.reason.to_string())
}

#[test]
fn what_the_kernel_writes_into_pinned_memory_is_there_after_a_heal() {
    let guest = mended();
    heal_under_io(&guest);
    // The kernel lets go of the buffers a little later.
    wait::until("the end of the pin", || heal(&guest).failed.is_empty());
    check_filled(&guest, &LOST);
}

#[test]
fn small_pages_that_the_kernel_has_pinned_are_healed_when_it_lets_go() {
    let name = "heal::small_pages_that_the_kernel_has_pinned_are_healed_when_it_lets_go";
    // Without privileges there is no file that has huge pages before it is healed.
    child::passes_as_nobody(name, || {
        let guest = mended();
        let why = heal_under_io(&guest).expect("it is pinned");
        assert!(why.contains("no transparent huge page"), "{why}");
        guest.check_all_but(&LOST);
        wait::until("the end of the pin", || heal(&guest).failed.is_empty());
        check_filled(&guest, &LOST);
        assert_eq!(huge_bytes(&guest, PAGE), PAGE);
    });
}

#[test]
fn a_healed_frame_that_fails_again_faults_again_and_can_be_healed_again() {
    let guest = mended();
    heal(&guest);
    guest.fail_untouched(LOST[0]);
    guest.pagemend.settle();
    assert_eq!(enforcement(&guest, LOST[0]), Some(Enforcement::Host));
    assert_eq!(enforcement(&guest, LOST[1]), Some(Enforcement::Guest));
    let guarded = guest.pagemend.memory("ram").unwrap();
    assert!(guarded.load::<u64>(gpa(LOST[0])).is_err());
    let healed = heal(&guest);
    assert_eq!(healed.failed, []);
    assert_eq!(healed.entrusted, [range(LOST[0], FRAME_SIZE)]);
    check_filled(&guest, &LOST);
    assert_eq!(huge_bytes(&guest, PAGE), PAGE);
}

#[test]
fn a_second_error_in_a_healed_stretch_costs_one_frame_until_it_is_healed() {
    let guest = mended();
    heal(&guest);
    let second = PAGE + 0x9000;
    guest.fail(second);
    let guarded = guest.pagemend.memory("ram").unwrap();
    assert!(guarded.load::<u64>(gpa(second)).is_err());
    assert_eq!(
        guest.load(second + FRAME_SIZE),
        pattern(gpa(second + FRAME_SIZE))
    );
    assert_eq!(enforcement(&guest, second), Some(Enforcement::Host));
    assert_eq!(heal(&guest).entrusted, [range(second, FRAME_SIZE)]);
    check_filled(&guest, &[LOST[0], LOST[1], second, LOST[2]]);
}

#[test]
fn a_page_is_healed_by_itself_where_the_policy_says_now() {
    let guest = mended_with(Heal::Now);
    guest.pagemend.settle();
    check_filled(&guest, &LOST);
    assert_eq!(check_page_sizes(&guest), [6 * MIB, PAGE, 0]);
}

#[test]
fn a_page_is_healed_by_itself_when_the_guest_knows_and_has_kept_off() {
    let after = Duration::from_millis(50);
    let guest = mended_with(Heal::OnAck { after });
    for frame in LOST {
        assert_eq!(guest.pagemend.totals().healed, 0);
        guest.pagemend.acknowledged(gpa(frame)).unwrap();
    }
    wait::until("the heal", || guest.pagemend.totals().healed == 1);
    check_filled(&guest, &LOST);
}

#[test]
fn a_reset_after_a_heal_gives_fresh_memory() {
    let guest = mended();
    heal(&guest);
    need_pool(PageSize::SIZE_2M, 1);
    let reset = guest.pagemend.reset().unwrap();
    assert_eq!((reset.renewed_pages, reset.cleared_frames), (1, 3));
    for frame in frames(PAGE, PAGE) {
        let expected = match LOST.contains(&frame) {
            true => 0,
            false => pattern(gpa(frame)),
        };
        assert_eq!(guest.load(frame), expected);
    }
    assert_eq!(check_page_sizes(&guest), [8 * MIB, 0, 0]);
}

#[test]
fn settings_of_the_memory_are_those_of_healed_memory() {
    let guest = Guest::build(KIND, 8 * MIB, |region| region, |builder| builder).unwrap();
    fail(&guest);
    heal(&guest);
    let start = guest.memory.hva().get() + PAGE;
    for vma in mappings(start, start + PAGE) {
        assert!(
            !vma.has("dc") && !vma.has("nh") && !vma.has("rr"),
            "{vma:?}"
        );
    }
}

#[test]
fn of_a_gibibyte_page_each_stretch_with_a_loss_is_a_huge_page_again() {
    let lost = [2 * MIB + 0x3000, 700 * MIB];
    for filling in [Filling::OnDemand, Filling::Eager] {
        let guest = Guest::build(
            MemoryKind::Hugetlb(PageSize::SIZE_1G),
            GIB,
            |region| region.filling(filling),
            |builder| builder,
        )
        .unwrap();
        let taken = leave_in_pool(64);
        for frame in lost {
            guest.fail(frame);
        }
        guest.check_all_but(&lost);
        guest.pagemend.settle();
        drop(taken);
        let healed = heal(&guest);
        let frame = |frame| GpaRange::page(gpa(frame), PageSize::SIZE_4K);
        assert_eq!(healed.entrusted, lost.map(frame));
        assert_eq!(healed.failed, []);
        assert_eq!(check_page_sizes(&guest)[2], 0);
        for frame in frames(0, GIB) {
            let expected = match lost.contains(&frame) {
                true => u64::from_ne_bytes(*FILL.first_chunk().unwrap()),
                false => pattern(gpa(frame)),
            };
            assert_eq!(guest.load(frame), expected, "at {frame:#x}");
        }
    }
}
