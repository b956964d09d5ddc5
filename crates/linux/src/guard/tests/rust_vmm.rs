//! What a device model written against `vm-memory` gets.

use std::io::{Seek, SeekFrom, Write};
use std::sync::atomic::Ordering;

use pagemend_core::address::{Gpa, GpaRange};
use proptest::prelude::*;
use vm_memory::bitmap::{AtomicBitmap, Bitmap, NewBitmap};
use vm_memory::{
    Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionCollection, MemoryRegionAddress,
};

use crate::guard::testing::{FRAME, Patchwork, distinct};
use crate::guard::{GuardedMemory, GuardedRegion, GuestRegion, poisoned_gpa};

fn region_of(start: u64, pattern: &str) -> GuestRegion {
    let memory = Patchwork::new(pattern);
    let gpas = GpaRange::new(Gpa::new(start), (pattern.len() * FRAME) as u64).unwrap();
    // SAFETY: a patchwork stays mapped for good, and is used through raw pointers only.
    unsafe { GuestRegion::new(gpas, memory.hva(0)) }.unwrap()
}

fn memory(regions: &[(u64, &str)]) -> GuardedMemory {
    let regions = regions
        .iter()
        .map(|&(start, pattern)| GuardedRegion::new(region_of(start, pattern)).unwrap());
    GuardedMemory::new(GuestRegionCollection::from_regions(regions.collect()).unwrap())
}

/// Two regions side by side, the second with a lost frame, and a third behind a gap.
fn three_regions() -> GuardedMemory {
    memory(&[(0x1000, ".."), (0x3000, ".x."), (0x10_0000, ".")])
}

const LOST: u64 = 0x4000;

/// The address and the count that the error of an access to lost memory carries.
fn lost_at<T: std::fmt::Debug>(result: Result<T, GuestMemoryError>) -> (u64, String) {
    let error = result.unwrap_err();
    let gpa = poisoned_gpa(&error).expect("an error of lost memory");
    (gpa.get(), error.to_string())
}

#[test]
fn every_operation_on_a_lost_frame_returns_its_address() {
    let guest = three_regions();
    let at = GuestAddress(LOST - 3);
    let mut sink = Vec::new();
    let results = [
        guest.write(&[1; 8], at).map(drop),
        guest.read(&mut [0; 8], at).map(drop),
        guest.write_slice(&[1; 8], at),
        guest.read_slice(&mut [0; 8], at),
        guest.write_obj(1u64, at),
        guest.read_obj::<u64>(at).map(drop),
        guest
            .read_volatile_from(at, &mut [7; 8].as_slice(), 8)
            .map(drop),
        guest.read_exact_volatile_from(at, &mut [7; 8].as_slice(), 8),
        guest.write_volatile_to(at, &mut sink, 8).map(drop),
        guest.write_all_volatile_to(at, &mut sink, 8),
        guest
            .load::<u32>(GuestAddress(LOST), Ordering::Acquire)
            .map(drop),
        guest.store(1u16, GuestAddress(LOST), Ordering::SeqCst),
    ];
    for result in results {
        assert_eq!(lost_at(result).0, LOST);
    }
    assert!(sink.is_empty());
}

#[test]
fn an_access_across_regions_is_one_access() {
    let guest = memory(&[(0x1000, "."), (0x2000, ".."), (0x4000, ".")]);
    let content = distinct(0x3000);
    guest.write_slice(&content, GuestAddress(0x1800)).unwrap();
    let mut back = vec![0; 0x3000];
    guest.read_slice(&mut back, GuestAddress(0x1800)).unwrap();
    assert_eq!(back, content);
    let mut sink = Vec::new();
    guest
        .write_all_volatile_to(GuestAddress(0x1800), &mut sink, 0x3000)
        .unwrap();
    assert_eq!(sink, content);
}

#[test]
fn the_bytes_done_before_a_lost_frame_count_from_the_start_of_the_access() {
    let guest = three_regions();
    let start = GuestAddress(0x1800);
    let done = LOST - 0x1800;
    let (gpa, text) = lost_at(guest.write_slice(&vec![9; 0x4000], start));
    assert_eq!(gpa, LOST);
    assert!(text.contains(&format!("({done} bytes")), "{text}");
    assert_eq!(guest.read_obj::<u8>(GuestAddress(LOST - 1)).unwrap(), 9);
    assert_eq!(
        guest.read_obj::<u8>(GuestAddress(LOST + 0x1000)).unwrap(),
        0
    );
}

#[test]
fn a_source_keeps_its_data_when_the_destination_is_lost() {
    let guest = three_regions();
    let content = distinct(0x2000);
    let mut source = content.as_slice();
    lost_at(guest.read_volatile_from(GuestAddress(LOST - 0x800), &mut source, 0x2000));
    assert_eq!(source.len(), 0x2000);
}

#[test]
fn device_io_larger_than_the_buffer_goes_through_whole() {
    let guest = memory(&[(0x1000, "................"), (0x1_1000, "................")]);
    let content = distinct(100_001);
    let mut file = tempfile();
    file.write_all(&content).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let at = GuestAddress(0x1003);
    guest
        .read_exact_volatile_from(at, &mut file, content.len())
        .unwrap();
    let mut sink = Vec::new();
    assert_eq!(
        guest
            .write_volatile_to(at, &mut sink, content.len())
            .unwrap(),
        content.len()
    );
    assert_eq!(sink, content);
    let at_end = guest.read_volatile_from(at, &mut file, 10).unwrap();
    assert_eq!(at_end, 0);
    let error = guest
        .read_exact_volatile_from(at, &mut file, 10)
        .unwrap_err();
    assert!(
        matches!(error, GuestMemoryError::IOError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof)
    );
}

fn tempfile() -> std::fs::File {
    use std::os::fd::FromRawFd;
    // SAFETY: a file without a name, whose descriptor is owned by nothing else.
    unsafe { std::fs::File::from_raw_fd(libc::memfd_create(c"disk".as_ptr(), libc::MFD_CLOEXEC)) }
}

/// Stands for a device model that insists on `GuestMemory`.
fn device_model(guest: &impl GuestMemory, at: u64) -> Result<u64, GuestMemoryError> {
    let value: u64 = guest.read_obj(GuestAddress(at))?;
    guest.write_obj(value + 1, GuestAddress(at))?;
    Ok(value)
}

#[test]
fn a_device_model_over_plain_slices_gets_an_error_at_a_lost_frame() {
    let guest = three_regions();
    assert_eq!(device_model(guest.regions(), LOST - 8).unwrap(), 0);
    assert_eq!(device_model(guest.regions(), LOST - 8).unwrap(), 1);
    assert_eq!(lost_at(device_model(guest.regions(), LOST)).0, LOST);
    assert_eq!(lost_at(device_model(guest.regions(), LOST - 4)).0, LOST);
    let slice = GuestMemoryBackend::get_slice(guest.regions(), GuestAddress(0x3000), 0x2000);
    assert_eq!(lost_at(slice).0, LOST);
}

#[test]
fn a_whole_region_can_be_handed_out_although_a_frame_is_lost() {
    let guest = three_regions();
    let region = guest.regions().find_region(GuestAddress(LOST)).unwrap();
    assert_eq!(region.as_volatile_slice().unwrap().len(), 3 * FRAME);
    let host = guest
        .regions()
        .get_host_address(GuestAddress(LOST))
        .unwrap();
    assert_eq!(
        host.addr() as u64,
        region.region().mapped_at().start().get() + 0x1000
    );
}

#[test]
fn exactly_the_bytes_written_are_marked_dirty() {
    let region = region_of(0, "...x");
    let bitmap = AtomicBitmap::with_len(4 * FRAME);
    let region = GuardedRegion::with_bitmap(region, bitmap).unwrap();
    let dirty = || [0, 1, 2, 3].map(|frame| region.bitmap().dirty_at(frame * FRAME));
    let mut buffer = [0; 100];
    region
        .read_slice(&mut buffer, MemoryRegionAddress(0))
        .unwrap();
    assert_eq!(dirty(), [false; 4]);
    region
        .store(1u32, MemoryRegionAddress(0), Ordering::Relaxed)
        .unwrap();
    assert_eq!(dirty(), [true, false, false, false]);
    region
        .write(&[1; 2 * FRAME], MemoryRegionAddress(2 * FRAME as u64))
        .unwrap_err();
    assert_eq!(dirty(), [true, false, true, false]);
}

#[test]
fn a_region_by_itself_answers_in_offsets() {
    let region = GuardedRegion::new(region_of(0x3000, ".x.")).unwrap();
    let at = MemoryRegionAddress;
    assert_eq!(lost_at(region.read_obj::<u64>(at(0x1000))).0, 0x4000);
    assert_eq!(region.write(&[1; 20], at(0x2ff6)).unwrap(), 10);
    assert!(matches!(
        region.write(&[1], at(0x3000)),
        Err(GuestMemoryError::InvalidBackendAddress)
    ));
    assert!(matches!(
        region.write_slice(&[1; 20], at(0x2ff6)),
        Err(GuestMemoryError::PartialBuffer { expected: 20, .. })
    ));
    assert!(region.load::<u32>(at(2), Ordering::Relaxed).is_err());
    assert!(GuardedRegion::new(region_of(0, "")).is_none());
}

proptest! {
    #[test]
    fn healthy_memory_answers_like_the_stock_one(
        at in 0..0x9000u64, len in 0..0x6000usize, exact: bool,
    ) {
        thread_local! {
            static PAIR: (GuardedMemory, GuestMemoryMmap) = (
                memory(&[(0x1000, ".."), (0x3000, "."), (0x6000, "..")]),
                GuestMemoryMmap::from_ranges(&[
                    (GuestAddress(0x1000), 0x2000),
                    (GuestAddress(0x3000), 0x1000),
                    (GuestAddress(0x6000), 0x2000),
                ])
                .unwrap(),
            );
        }
        let content = distinct(len);
        let at = GuestAddress(at);
        PAIR.with(|(guarded, stock)| {
            if exact {
                let written = guarded.write_slice(&content, at);
                prop_assert_eq!(written.is_ok(), stock.write_slice(&content, at).is_ok());
                let mut read = vec![0; len];
                prop_assert_eq!(guarded.read_slice(&mut read, at).is_ok(), written.is_ok());
                prop_assert!(written.is_err() || read == content);
            } else {
                let written = guarded.write(&content, at).ok();
                prop_assert_eq!(written, stock.write(&content, at).ok());
                let from = &mut content.as_slice();
                prop_assert_eq!(guarded.read_volatile_from(at, from, len).ok(), written);
                let mut sink = Vec::new();
                prop_assert_eq!(guarded.write_volatile_to(at, &mut sink, len).ok(), written);
                prop_assert_eq!(&sink[..], &content[..written.unwrap_or(0)]);
            }
            Ok(())
        })?;
    }
}
