//! The map finds every byte, refuses what does not fit, and stays whole however it is cut.

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn region(name: &str, gpa: u64, hva: u64, len: u64) -> Region {
    Region {
        name: name.into(),
        gpa: GpaRange::new(Gpa::new(gpa), len).unwrap(),
        hva: Hva::new(hva),
        page_size: PageSize::SIZE_2M,
        backing: Backing::Hugetlb,
        source: Some(Source {
            file: FileId(0),
            offset: 0,
        }),
        policy: Policy::Mend,
        filling: Filling::default(),
        heal: Heal::default(),
        consumers: vec![],
    }
}

fn small(gpa: u64, len: u64, file: u32) -> Segment {
    Segment {
        gpa: GpaRange::new(Gpa::new(gpa), len).unwrap(),
        page_size: PageSize::SIZE_4K,
        backing: Backing::Shmem,
        source: Some(Source {
            file: FileId(file),
            offset: 0,
        }),
    }
}

#[test]
fn an_address_is_found_by_host_and_by_guest_address() {
    let mut map = MemoryMap::new();
    map.add(region("low", 0, 64 * MIB, 8 * MIB)).unwrap();
    map.add(region("high", 32 * MIB, 16 * MIB, 8 * MIB))
        .unwrap();
    let by_hva = map.locate_hva(Hva::new(17 * MIB)).unwrap();
    assert_eq!(
        (by_hva.region.name.as_str(), by_hva.gpa),
        ("high", Gpa::new(33 * MIB))
    );
    let by_gpa = map.locate_gpa(Gpa::new(3 * MIB)).unwrap();
    assert_eq!(
        (by_gpa.region.name.as_str(), by_gpa.hva),
        ("low", Hva::new(67 * MIB))
    );
    assert!(map.locate_hva(Hva::new(24 * MIB)).is_none());
    assert!(map.locate_gpa(Gpa::new(8 * MIB)).is_none());
}

#[test]
fn bad_regions_are_refused_by_name() {
    let mut map = MemoryMap::new();
    map.add(region("ram", 0, 64 * MIB, 8 * MIB)).unwrap();
    let text = |map: &mut MemoryMap, region| map.add(region).unwrap_err().to_string();
    assert_eq!(
        text(&mut map, region("b", 6 * MIB, 128 * MIB, 4 * MIB)),
        "regions 'b' and 'ram' overlap in guest addresses"
    );
    assert_eq!(
        text(&mut map, region("b", 16 * MIB, 70 * MIB, 4 * MIB)),
        "regions 'b' and 'ram' overlap in host addresses"
    );
    assert_eq!(
        text(&mut map, region("b", 16 * MIB, 128 * MIB + 4096, 4 * MIB)),
        "region 'b': host address 0x8001000 is not a multiple of its page size, 2 MiB"
    );
    assert_eq!(
        text(&mut map, region("b", 16 * MIB, 128 * MIB, 0)),
        "region 'b' is empty"
    );
    assert!(matches!(
        map.add(region("b", 16 * MIB, u64::MAX - 2 * MIB + 1, 4 * MIB)),
        Err(MapError::Wraps { .. })
    ));
    assert_eq!(map.regions().count(), 1);
}

#[test]
fn pieces_that_leave_a_gap_are_refused() {
    let mut map = MemoryMap::new();
    map.add(region("ram", 0, 64 * MIB, 8 * MIB)).unwrap();
    let range = GpaRange::new(Gpa::new(2 * MIB), 2 * MIB).unwrap();
    for pieces in [
        vec![],
        vec![small(2 * MIB, MIB, 1)],
        vec![small(3 * MIB, MIB, 1)],
    ] {
        assert_eq!(
            map.replace(range, &pieces),
            Err(MapError::WrongCover { range })
        );
    }
    assert_eq!(map.segments().count(), 1);
}

proptest! {
    /// Whatever is replaced, each byte stays in exactly one segment, keeps its place in its
    /// file, and no two neighbours are left that could be one.
    #[test]
    fn segments_always_tile_the_region(steps in prop::collection::vec((0..64u64, 1..8u64, 0..3u32), 1..60)) {
        let mut map = MemoryMap::new();
        map.add(region("ram", 0, 256 * MIB, 128 * MIB)).unwrap();
        let mut model: Vec<(u32, u64)> = (0..64).map(|page| (0, page * 2 * MIB)).collect();
        for (first, count, file) in steps {
            let count = count.min(64 - first);
            let range = GpaRange::new(Gpa::new(first * 2 * MIB), count * 2 * MIB).unwrap();
            let mut piece = small(first * 2 * MIB, count * 2 * MIB, file + 1);
            piece.source = Some(Source { file: FileId(file + 1), offset: first * 2 * MIB });
            map.replace(range, &[piece]).unwrap();
            for page in first..first + count {
                model[page as usize] = (file + 1, page * 2 * MIB);
            }
        }
        for (page, (file, offset)) in model.into_iter().enumerate() {
            let gpa = Gpa::new(page as u64 * 2 * MIB + 5);
            let segment = map.locate_gpa(gpa).unwrap().segment;
            prop_assert_eq!(segment.source_of(gpa), Some(Source { file: FileId(file), offset: offset + 5 }));
        }
        let segments: Vec<_> = map.segments().copied().collect();
        let total: u64 = segments.iter().map(|segment| segment.gpa.len()).sum();
        prop_assert_eq!(total, 128 * MIB);
        prop_assert!(segments.windows(2).all(|pair| !pair[0].goes_on_in(&pair[1])));
    }
}
