//! What a guarded copy does with healthy and with lost memory.

use proptest::prelude::*;

use crate::guard::testing::{FRAME, Patchwork, Verdict, distinct, with_verdict};
use crate::guard::{Fault, try_copy, try_touch};

/// Every start and length around the edges of a lost frame, and some that take the other paths.
fn accesses_around_a_lost_middle_frame() -> impl Iterator<Item = (usize, usize)> {
    let edges = [FRAME - 100..FRAME + 3, 2 * FRAME - 3..2 * FRAME + 2];
    let short = edges
        .into_iter()
        .flatten()
        .flat_map(|start| (0..180).map(move |len| (start, len)));
    let long = [0, 1, 15, 63, 64, 65, 1000, 3001, 3072, 4000, 4095]
        .into_iter()
        .flat_map(|start| [1023, 1024, 1500, 4096, 5000, 8000].map(|len| (start, len)));
    short.chain(long)
}

/// Bytes of an access that come before the lost middle frame; `None` if it does not reach it.
fn before_the_lost_frame(start: usize, len: usize) -> Option<usize> {
    let reaches = len > 0 && start < 2 * FRAME && start + len > FRAME;
    reaches.then(|| FRAME.saturating_sub(start))
}

#[test]
fn a_copy_from_a_lost_frame_delivers_exactly_the_bytes_before_it() {
    let memory = Patchwork::new(".x.");
    let content = distinct(3 * FRAME);
    memory.set(0, &content[..FRAME]);
    memory.set(2 * FRAME, &content[2 * FRAME..]);
    for (start, len) in accesses_around_a_lost_middle_frame() {
        let mut buffer = vec![0xee; len];
        // SAFETY: both ranges are mapped.
        let result = unsafe { try_copy(buffer.as_mut_ptr(), memory.at(start), len) };
        let done = match before_the_lost_frame(start, len) {
            None => {
                assert_eq!(result, Ok(()), "{len} bytes from {start}");
                len
            }
            Some(done) => {
                let address = memory.hva(start + done);
                assert_eq!(result, Err(Fault { address, done }), "{len} from {start}");
                done
            }
        };
        assert_eq!(buffer[..done], content[start..start + done]);
        assert!(buffer[done..].iter().all(|&byte| byte == 0xee));
    }
}

#[test]
fn a_copy_to_a_lost_frame_delivers_exactly_the_bytes_before_it() {
    let memory = Patchwork::new(".x.");
    let content = distinct(3 * FRAME);
    for (start, len) in accesses_around_a_lost_middle_frame() {
        memory.set(0, &[0xee; FRAME]);
        memory.set(2 * FRAME, &[0xee; FRAME]);
        // SAFETY: both ranges are mapped.
        let result = unsafe { try_copy(memory.at(start), content.as_ptr(), len) };
        let Some(done) = before_the_lost_frame(start, len) else {
            assert_eq!(result, Ok(()), "{len} bytes to {start}");
            assert_eq!(memory.bytes(start, len), content[..len]);
            continue;
        };
        let address = memory.hva(start + done);
        assert_eq!(result, Err(Fault { address, done }), "{len} to {start}");
        assert_eq!(memory.bytes(start.min(FRAME), done), content[..done]);
        // See `Fault::done` for arm64.
        let open = if cfg!(target_arch = "aarch64") { 31 } else { 0 };
        let next = memory.bytes(2 * FRAME + open, FRAME - open);
        assert!(next.iter().all(|&byte| byte == 0xee), "{len} to {start}");
    }
}

#[test]
fn a_fault_known_only_by_its_frame_is_located_to_the_byte() {
    let memory = Patchwork::new(".x.");
    let mut buffer = vec![0; 3 * FRAME];
    for (start, len) in [(10, 8000), (FRAME - 7, 100), (FRAME + 300, 20)] {
        let done = before_the_lost_frame(start, len).unwrap();
        let address = memory.hva(start + done);
        // SAFETY: both ranges are mapped.
        let (read, _) = with_verdict(Verdict::LostFrame, || unsafe {
            try_copy(buffer.as_mut_ptr(), memory.at(start), len)
        });
        assert_eq!(read, Err(Fault { address, done }));
        // SAFETY: both ranges are mapped.
        let (written, _) = with_verdict(Verdict::LostFrame, || unsafe {
            try_copy(memory.at(start), buffer.as_ptr(), len)
        });
        assert_eq!(written, Err(Fault { address, done }));
    }
}

#[test]
fn a_copy_over_a_mended_frame_completes() {
    for (verdict, len) in [
        (Verdict::Mended(0x5a), 500),
        (Verdict::MendedAtLast(0x5a), 500),
        (Verdict::Mended(0x5a), 3000),
    ] {
        let memory = Patchwork::new(".x.");
        let mut buffer = vec![0; len];
        // SAFETY: both ranges are mapped.
        let (result, faults) = with_verdict(verdict, || unsafe {
            try_copy(buffer.as_mut_ptr(), memory.at(FRAME - 77), len)
        });
        assert_eq!(result, Ok(()));
        assert!((1..=2).contains(&faults));
        assert!(buffer[..77].iter().all(|&byte| byte == 0));
        assert!(buffer[77..].iter().all(|&byte| byte == 0x5a));
    }
}

#[test]
fn an_overlapping_copy_up_into_a_lost_frame_promises_no_bytes() {
    let memory = Patchwork::new("..x");
    // SAFETY: both ranges are mapped.
    let result = unsafe { try_copy(memory.at(FRAME), memory.at(FRAME - 64), FRAME + 10) };
    let address = memory.hva(2 * FRAME);
    assert_eq!(result, Err(Fault { address, done: 0 }));
}

#[test]
fn an_overlapping_copy_down_out_of_a_lost_frame_is_exact() {
    let memory = Patchwork::new("..x");
    let content = distinct(FRAME);
    memory.set(FRAME, &content);
    // SAFETY: both ranges are mapped.
    let result = unsafe { try_copy(memory.at(FRAME - 24), memory.at(FRAME), 2 * FRAME) };
    let address = memory.hva(2 * FRAME);
    let done = FRAME;
    assert_eq!(result, Err(Fault { address, done }));
    assert_eq!(memory.bytes(FRAME - 24, FRAME), content);
}

#[test]
fn threads_that_fault_at_once_get_their_own_answers() {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                let memory = Patchwork::new(".x");
                for round in 0..500 {
                    let before = 1 + (thread * 131 + round * 17) % 3000;
                    let mut buffer = vec![0; 4000];
                    let start = FRAME - before;
                    // SAFETY: both ranges are mapped.
                    let result = unsafe { try_copy(buffer.as_mut_ptr(), memory.at(start), 4000) };
                    let address = memory.hva(FRAME);
                    let done = before;
                    assert_eq!(result, Err(Fault { address, done }));
                }
            });
        }
    });
}

#[test]
fn a_touch_meets_a_lost_frame_from_any_start() {
    let memory = Patchwork::new(".x.");
    for (start, len) in accesses_around_a_lost_middle_frame() {
        // SAFETY: the frames are mapped.
        let result = unsafe { try_touch(memory.at(start), len) };
        match before_the_lost_frame(start, len) {
            None => assert_eq!(result, Ok(()), "{len} bytes from {start}"),
            Some(done) => {
                let address = memory.hva(start + done);
                assert_eq!(result, Err(Fault { address, done }), "{len} from {start}");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_copy_between_a_lost_source_and_a_lost_destination_stops_at_the_first(
        from in 0..3 * FRAME, to in 0..3 * FRAME, len in 1..6 * FRAME,
    ) {
        thread_local! {
            static PAIR: (Patchwork, Patchwork) = (Patchwork::new("..x.x."), Patchwork::new("...x.."));
        }
        PAIR.with(|(source, target)| {
            let len = len.min(6 * FRAME - from.max(to));
            // SAFETY: both ranges are mapped.
            let result = unsafe { try_copy(target.at(to), source.at(from), len) };
            let lost_source = (2 * FRAME).saturating_sub(from);
            let lost_target = 3 * FRAME - to;
            let done = lost_source.min(lost_target);
            if done >= len {
                prop_assert_eq!(result, Ok(()));
            } else {
                let address = match lost_source <= lost_target {
                    true => source.hva(from + done),
                    false => target.hva(to + done),
                };
                let fault = result.unwrap_err();
                prop_assert_eq!(fault.done, done);
                if lost_source != lost_target {
                    prop_assert_eq!(fault.address, address);
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn a_healthy_copy_equals_a_plain_one_however_the_ranges_overlap(
        from in 0..12_000usize, distance in -5_000..5_000isize, len in 0..6_000usize,
    ) {
        let mut expected = distinct(28_000);
        let mut memory = expected.clone();
        let to = 5_000usize.saturating_add_signed(from as isize + distance);
        let from = from + 5_000;
        expected.copy_within(from..from + len, to);
        let base = memory.as_mut_ptr();
        // SAFETY: both ranges lie in the vector, which nothing else uses meanwhile.
        let result = unsafe { try_copy(base.add(to), base.add(from), len) };
        prop_assert_eq!(result, Ok(()));
        prop_assert!(memory == expected);
    }

    #[test]
    fn a_healthy_copy_between_buffers_equals_a_plain_one(
        from in 0..80usize, to in 0..80usize, len in prop_oneof![0..300usize, 0..9_000usize],
    ) {
        let source = distinct(10_000);
        let mut target = vec![0xee; 10_000];
        let mut expected = target.clone();
        expected[to..to + len].copy_from_slice(&source[from..from + len]);
        // SAFETY: both ranges lie in their vectors.
        let result = unsafe { try_copy(target.as_mut_ptr().add(to), source.as_ptr().add(from), len) };
        prop_assert_eq!(result, Ok(()));
        prop_assert!(target == expected);
    }
}
