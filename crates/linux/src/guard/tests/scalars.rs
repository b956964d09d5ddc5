//! What guarded loads, stores and exchanges do, for each width.

use std::fmt::Debug;

use crate::guard::testing::{FRAME, Patchwork, Verdict, with_verdict};
use crate::guard::{Fault, Scalar, try_compare_exchange, try_load, try_store};

/// Calls the test for each width, with two values that differ in every byte.
macro_rules! for_each_width {
    ($test:ident) => {
        $test::<u8>(0xa1, 0x5e);
        $test::<u16>(0xa1b2, 0x5e4d);
        $test::<u32>(0xa1b2_c3d4, 0x5e4d_3c2b);
        $test::<u64>(0xa1b2_c3d4_e5f6_0718, 0x5e4d_3c2b_1a09_f8e7);
    };
}

#[test]
fn a_store_changes_its_own_bytes_only_and_a_load_sees_them() {
    fn test<T: Scalar + Debug>(value: T, _: T) {
        let memory = Patchwork::new(".");
        memory.set(0, &[0xee; 64]);
        let at = memory.at(16).cast::<T>();
        // SAFETY: aligned and mapped.
        assert_eq!(unsafe { try_store(at, value) }, Ok(()));
        // SAFETY: aligned and mapped.
        assert_eq!(unsafe { try_load(at) }, Ok(value));
        // SAFETY: as above, and healthy.
        assert_eq!(unsafe { at.read_volatile() }, value);
        assert_eq!(memory.bytes(0, 16), [0xee; 16]);
        let behind = 16 + size_of::<T>();
        assert!(memory.bytes(behind, 64 - behind).iter().all(|&b| b == 0xee));
    }
    for_each_width!(test);
}

#[test]
fn an_exchange_happens_only_where_the_expected_value_is() {
    fn test<T: Scalar + Debug>(a: T, b: T) {
        let memory = Patchwork::new(".");
        memory.set(0, &[0xee; 64]);
        let at = memory.at(16).cast::<T>();
        // SAFETY: aligned and mapped.
        unsafe {
            try_store(at, a).unwrap();
            assert_eq!(try_compare_exchange(at, b, b), Ok(Err(a)));
            assert_eq!(try_load(at), Ok(a));
            assert_eq!(try_compare_exchange(at, a, b), Ok(Ok(a)));
            assert_eq!(try_load(at), Ok(b));
        }
        assert_eq!(memory.bytes(0, 16), [0xee; 16]);
        let behind = 16 + size_of::<T>();
        assert!(memory.bytes(behind, 64 - behind).iter().all(|&b| b == 0xee));
    }
    for_each_width!(test);
}

#[test]
fn every_access_to_a_lost_frame_says_where() {
    fn test<T: Scalar + Debug>(a: T, b: T) {
        let memory = Patchwork::new(".x.");
        for verdict in [Verdict::Lost, Verdict::LostFrame] {
            for offset in [FRAME, FRAME + 8, 2 * FRAME - 8] {
                let at = memory.at(offset).cast::<T>();
                let address = memory.hva(offset);
                let fault = Fault { address, done: 0 };
                // SAFETY: aligned and mapped.
                let (results, faults) = with_verdict(verdict, || unsafe {
                    (
                        try_load(at),
                        try_store(at, a),
                        try_compare_exchange(at, a, b),
                    )
                });
                assert_eq!(results, (Err(fault), Err(fault), Err(fault)));
                assert_eq!(faults, 3);
            }
        }
    }
    for_each_width!(test);
}

#[test]
fn an_access_to_a_mended_frame_runs_again() {
    fn test<T: Scalar + Debug>(a: T, b: T) {
        let load = |memory: &Patchwork| memory.at(FRAME).cast::<T>();
        let memory = Patchwork::new(".x.");
        // SAFETY: aligned and mapped.
        let (loaded, faults) =
            with_verdict(Verdict::Mended(0), || unsafe { try_load(load(&memory)) });
        assert_eq!(faults, 1);
        let zero = loaded.unwrap();

        let memory = Patchwork::new(".x.");
        // SAFETY: aligned and mapped.
        let (stored, _) = with_verdict(Verdict::Mended(0), || unsafe {
            try_store(load(&memory), a)
        });
        assert_eq!(stored, Ok(()));
        // SAFETY: aligned and mapped.
        assert_eq!(unsafe { try_load(load(&memory)) }, Ok(a));

        let memory = Patchwork::new(".x.");
        // SAFETY: aligned and mapped.
        let (exchanged, _) = with_verdict(Verdict::Mended(0), || unsafe {
            try_compare_exchange(load(&memory), zero, b)
        });
        assert_eq!(exchanged, Ok(Ok(zero)));
        // SAFETY: aligned and mapped.
        assert_eq!(unsafe { try_load(load(&memory)) }, Ok(b));
    }
    for_each_width!(test);
}
