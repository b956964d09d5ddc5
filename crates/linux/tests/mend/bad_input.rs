//! What a VMM may get wrong: each an error of its own that names the culprit.

use std::sync::Arc;

use pagemend_core::address::{Gpa, PageSize};
use pagemend_core::map::MapError;
use pagemend_linux::probe::Pool;
use pagemend_linux::{
    BuildError, GuestMemory, MemoryError, MemoryKind, Pagemend, RegionConfig, RegionError,
};

use crate::guest::{MIB, leave_in_pool, need_pool, turn};

fn shmem(len: u64) -> Arc<GuestMemory> {
    Arc::new(GuestMemory::new(MemoryKind::Shmem, len).unwrap())
}

/// A region called `name` of `memory`, from `offset` on.
fn part(name: &str, gpa: u64, memory: &GuestMemory, offset: u64, len: u64) -> RegionConfig {
    let start = memory.as_ptr().wrapping_add(offset as usize);
    // SAFETY: no mender ever starts with it.
    unsafe { RegionConfig::new(name, Gpa::new(gpa), start, len) }
}

/// Why a mender of these regions does not start. The text names each of `culprits`.
fn refused<const N: usize>(regions: [RegionConfig; N], culprits: &[&str]) -> BuildError {
    let _turn = turn();
    let builder = regions
        .into_iter()
        .fold(Pagemend::builder(), |builder, region| {
            builder.region(region)
        });
    let error = builder.start().unwrap_err();
    let text = error.to_string();
    for culprit in culprits {
        assert!(text.contains(culprit), "'{culprit}' is not in '{text}'");
    }
    error
}

#[test]
fn a_guest_without_memory_is_refused() {
    assert!(matches!(refused([], &["no region"]), BuildError::NoRegions));
}

#[test]
fn more_regions_than_there_is_room_for_are_refused() {
    let memory = shmem(MIB);
    let regions = std::array::from_fn::<_, 65, _>(|n| {
        let offset = n as u64 * 4096;
        part("small", offset, &memory, offset, 4096)
    });
    let error = refused(regions, &["65", "64"]);
    assert!(matches!(error, BuildError::TooManyRegions(65)));
}

#[test]
fn unaligned_regions_are_refused() {
    let memory = shmem(MIB);
    for (gpa, offset, len, culprit) in [
        (0x800, 0, 4096, "guest address 0x800"),
        (0, 0x10, 4096, "host address"),
        (0, 0, 0x1800, "size 0x1800"),
    ] {
        let region = part("odd", gpa, &memory, offset, len);
        let error = refused([region], &["'odd'", culprit, "4 KiB"]);
        assert!(matches!(error, BuildError::Map(MapError::Unaligned { .. })));
    }
}

#[test]
fn hugetlb_memory_has_to_be_aligned_to_its_huge_pages() {
    let memory = {
        let _turn = turn();
        need_pool(PageSize::SIZE_2M, 2);
        let kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
        Arc::new(GuestMemory::new(kind, 4 * MIB).unwrap())
    };
    let region = RegionConfig::of("ram", Gpa::new(MIB), memory).unwrap();
    let error = refused([region], &["'ram'", "guest address 0x100000", "2 MiB"]);
    assert!(matches!(error, BuildError::Map(MapError::Unaligned { .. })));
}

#[test]
fn an_empty_region_is_refused() {
    let memory = shmem(MIB);
    refused([part("none", 0, &memory, 0, 0)], &["'none'"]);
}

#[test]
fn overlapping_regions_are_refused_in_either_space() {
    let memory = shmem(MIB);
    for (gpa, offset, space) in [(0x1000, 0x8000, "guest"), (0x8_0000, 0x1000, "host")] {
        let low = part("low", 0, &memory, 0, 0x2000);
        let high = part("high", gpa, &memory, offset, 0x2000);
        let error = refused([low, high], &["'low'", "'high'", space]);
        assert!(matches!(error, BuildError::Map(MapError::Overlap { .. })));
    }
}

#[test]
fn addresses_that_are_not_mapped_are_refused() {
    let memory = shmem(MIB);
    let region = part("long", 0, &memory, 0, 512 * MIB);
    let end = memory.hva().get() + MIB;
    let error = refused([region], &["'long'"]);
    let BuildError::Region(RegionError::NotMapped { hva, .. } | RegionError::Mixed { hva, .. }) =
        error
    else {
        panic!("{error}");
    };
    assert_eq!(hva.get(), end);
}

#[test]
fn a_region_that_passes_the_end_of_addresses_is_refused() {
    let memory = shmem(MIB);
    let region = part("huge", u64::MAX - 4095, &memory, 0, 8192);
    let error = refused([region], &["'huge'"]);
    assert!(matches!(
        error,
        BuildError::Region(RegionError::Wraps { .. })
    ));
}

#[test]
fn a_file_that_is_not_what_is_mapped_is_refused() {
    // Each on a file system of its own, where the first file has the same number.
    for kind in [MemoryKind::Shmem, MemoryKind::ShmemThp] {
        let [memory, other] = [0; 2].map(|_| GuestMemory::new(kind.clone(), 2 * MIB).unwrap());
        let region = part("ram", 0, &memory, 0, MIB);
        let region = region.file(other.file().unwrap(), 0).unwrap();
        let error = refused([region], &["'ram'", "not what is mapped"]);
        assert!(matches!(
            error,
            BuildError::Region(RegionError::OtherFile { .. })
        ));
        let region = part("ram", 0, &memory, 0, MIB);
        let region = region.file(memory.file().unwrap(), 4096).unwrap();
        refused([region], &["'ram'", "not at that offset"]);
    }
}

#[test]
fn memory_of_two_kinds_in_one_region_is_refused() {
    let memory = GuestMemory::new(MemoryKind::Anonymous, 4 * MIB).unwrap();
    // SAFETY: the upper half becomes read-only, and nobody writes it.
    let done = unsafe {
        let middle = memory.as_ptr().add(2 << 20);
        libc::mprotect(middle.cast(), 2 << 20, libc::PROT_READ)
    };
    assert_eq!(done, 0);
    let region = part("ram", 0, &memory, 0, 4 * MIB);
    let error = refused([region], &["'ram'", "differently"]);
    assert!(matches!(
        error,
        BuildError::Region(RegionError::Mixed { .. })
    ));
}

#[test]
fn guest_memory_in_half_a_huge_page_is_refused() {
    for kind in [
        MemoryKind::Hugetlb(PageSize::SIZE_2M),
        MemoryKind::AnonymousThp,
    ] {
        for len in [0, MIB, 3 * MIB] {
            let error = GuestMemory::new(kind.clone(), len).unwrap_err();
            assert!(matches!(error, MemoryError::Size { .. }));
            assert!(error.to_string().contains(&len.to_string()), "{error}");
        }
    }
}

#[test]
fn more_memory_than_the_machine_has_is_refused() {
    let error = GuestMemory::new(MemoryKind::Shmem, 1 << 50).unwrap_err();
    assert!(matches!(error, MemoryError::TooLarge { .. }));
    assert!(error.to_string().contains(&(1u64 << 50).to_string()));
}

#[test]
fn a_pool_that_is_too_small_is_named_with_the_command_that_grows_it() {
    let _turn = turn();
    let _taken = leave_in_pool(0);
    let kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
    let error = GuestMemory::new(kind, 4 * MIB).unwrap_err();
    let MemoryError::PoolTooSmall {
        needed,
        available,
        total,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((needed, available), (2, 0));
    let wanted = total + 2;
    let command = format!("echo {wanted} > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    assert!(error.to_string().contains(&command), "{error}");
    assert!(Pool::of(PageSize::SIZE_2M).is_some());
}
