//! What access by guest physical address returns.

use pagemend_core::address::{Gpa, GpaRange, Hva};

use crate::guard::testing::{FRAME, Patchwork, distinct};
use crate::guard::{GuardError, GuestRegion};

const START: u64 = 0x8000_0000;

fn region(memory: &Patchwork, frames: usize) -> GuestRegion {
    let gpas = GpaRange::new(Gpa::new(START), (frames * FRAME) as u64).unwrap();
    // SAFETY: a patchwork stays mapped for good, and is used through raw pointers only.
    unsafe { GuestRegion::new(gpas, memory.hva(0)) }.unwrap()
}

fn gpa(offset: usize) -> Gpa {
    Gpa::new(START + offset as u64)
}

#[test]
fn what_is_written_is_read_back() {
    let region = region(&Patchwork::new(".."), 2);
    let content = distinct(5000);
    region.write(gpa(123), &content).unwrap();
    region.copy_within(gpa(123), gpa(200), 5000).unwrap();
    let mut back = vec![0; 5000];
    region.read(gpa(200), &mut back).unwrap();
    assert_eq!(back, content);
    region.store(gpa(8), 0x1234_5678u32).unwrap();
    assert_eq!(region.load::<u32>(gpa(8)), Ok(0x1234_5678));
    assert_eq!(
        region.compare_exchange(gpa(8), 1u32, 2),
        Ok(Err(0x1234_5678))
    );
    assert_eq!(region.touch(gpa(0), 2 * FRAME), Ok(()));
}

#[test]
fn every_access_to_a_lost_frame_names_its_guest_physical_address() {
    let region = region(&Patchwork::new("..x."), 4);
    let lost = gpa(2 * FRAME);
    let poisoned = |done| GuardError::Poisoned { gpa: lost, done };
    let mut buffer = [0; 3000];
    let start = 2 * FRAME - 1000;
    assert_eq!(region.read(gpa(start), &mut buffer), Err(poisoned(1000)));
    assert_eq!(region.write(gpa(start), &buffer), Err(poisoned(1000)));
    assert_eq!(region.touch(gpa(start), 3000), Err(poisoned(1000)));
    assert_eq!(region.load::<u64>(lost), Err(poisoned(0)));
    assert_eq!(region.store(lost, 1u16), Err(poisoned(0)));
    assert_eq!(region.compare_exchange(lost, 1u8, 2), Err(poisoned(0)));
    let from_lost = region.copy_within(gpa(start), gpa(0), 3000);
    assert_eq!(from_lost, Err(poisoned(1000)));
    let to_lost = region.copy_within(gpa(0), gpa(start), 3000);
    assert_eq!(to_lost, Err(poisoned(1000)));
}

#[test]
fn an_access_that_is_not_all_inside_is_refused_before_it_starts() {
    let memory = Patchwork::new("..");
    let region = region(&memory, 2);
    let end = 2 * FRAME;
    for (at, len) in [
        (Gpa::new(START - 1), 2),
        (gpa(end - 1), 2),
        (gpa(end), 1),
        (gpa(end + 1), 0),
        (Gpa::new(0), 1),
        (Gpa::new(u64::MAX), 1),
    ] {
        let error = GuardError::OutOfRange {
            gpa: at,
            len: len as u64,
            region: region.range(),
        };
        assert_eq!(region.read(at, &mut vec![0; len]), Err(error));
        assert_eq!(region.write(at, &vec![1; len]), Err(error));
        assert_eq!(region.touch(at, len), Err(error));
        assert_eq!(region.copy_within(at, gpa(0), len), Err(error));
        assert_eq!(region.copy_within(gpa(0), at, len), Err(error));
    }
    assert!(region.load::<u64>(gpa(end - 4)).is_err());
    assert_eq!(memory.bytes(0, end), vec![0; end]);
    assert_eq!(region.read(gpa(end), &mut []), Ok(()));
}

#[test]
fn a_misaligned_load_or_store_is_refused() {
    let region = region(&Patchwork::new("."), 1);
    let misaligned = |at, size| GuardError::Misaligned { gpa: gpa(at), size };
    assert_eq!(region.load::<u16>(gpa(1)), Err(misaligned(1, 2)));
    assert_eq!(region.load::<u32>(gpa(2)), Err(misaligned(2, 4)));
    assert_eq!(region.store(gpa(4), 0u64), Err(misaligned(4, 8)));
    assert_eq!(
        region.compare_exchange(gpa(12), 0u64, 0),
        Err(misaligned(12, 8))
    );
    assert_eq!(region.load::<u8>(gpa(3)), Ok(0));
}

#[test]
fn a_lost_buffer_is_not_mistaken_for_lost_guest_memory() {
    let region = region(&Patchwork::new(".."), 2);
    let other = Patchwork::new(".x");
    let error = GuardError::Buffer {
        address: other.hva(FRAME),
        done: 50,
    };
    // SAFETY: mapped, and only the guarded access uses it.
    let buffer = unsafe { std::slice::from_raw_parts_mut(other.at(FRAME - 50), 100) };
    assert_eq!(region.write(gpa(0), buffer), Err(error));
    assert_eq!(region.read(gpa(0), buffer), Err(error));
}

#[test]
fn a_region_cannot_pass_the_end_of_the_address_space() {
    let gpas = GpaRange::new(Gpa::new(0), 2 * FRAME as u64).unwrap();
    // SAFETY: it is refused, so never used.
    let region = unsafe { GuestRegion::new(gpas, Hva::new(u64::MAX - FRAME as u64)) };
    assert!(region.is_none());
}
