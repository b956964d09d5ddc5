//! What is written is read as it was written, and nothing makes the readers panic. How many cases are
//! tried is set by `PROPTEST_CASES`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod generate;

use generate::{record, section, status_block};
use pagemend_cper::error::{Error, Reason};
use pagemend_cper::guid::section_type;
use pagemend_cper::record::{Record, RecordBuilder, SectionDescriptor};
use pagemend_cper::section::Section;
use pagemend_cper::severity::Severity;
use pagemend_cper::status::{DataEntryHeader, StatusBlock, StatusBlockBuilder};
use pagemend_cper::time::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// Reads everything that can be read of these bytes, as everything that they could be.
fn read_all(bytes: &[u8]) {
    if let Ok(record) = Record::read(bytes) {
        for section in record.sections() {
            let _ = section.section.map(touch);
        }
        let _ = RecordBuilder::from(&record).build();
        #[cfg(feature = "json")]
        {
            let json = pagemend_cper::json::record_to_json(&record);
            let _ = pagemend_cper::json::record_from_json(&json).map(|record| record.build());
        }
    }
    if let Ok(block) = StatusBlock::read(bytes) {
        let _ = (block.check(), block.len(), block.raw_data());
        for entry in block.entries().flatten() {
            let _ = (
                entry.timestamp().map(|time| time.civil()),
                entry.section.map(touch),
            );
        }
        #[cfg(feature = "json")]
        let _ = pagemend_cper::json::status_to_json(&block);
    }
    for (guid, _) in section_type::NAMES {
        let _ = Section::read(*guid, bytes).map(touch);
    }
}

/// Walks what is variable in a section.
fn touch(section: Section<'_>) {
    match section {
        Section::Arm(arm) => assert_eq!(
            arm.contexts().count(),
            usize::from(arm.header.context_count.get())
        ),
        Section::X86(x86) => assert_eq!(x86.contexts().count(), x86.header.context_count()),
        other => drop(other.physical_address()),
    }
}

proptest! {
    #[test]
    fn a_record_is_read_as_it_was_written(builder in record()) {
        let bytes = builder.build().unwrap();
        let record = Record::read(&bytes).unwrap();
        prop_assert_eq!(record.bytes(), &bytes);
        for section in record.sections() {
            prop_assert!(section.section.is_ok(), "{:?}", section.section);
        }
        prop_assert_eq!(RecordBuilder::from(&record).build().unwrap(), bytes);
    }

    #[test]
    fn a_status_block_is_read_as_it_was_written(builder in status_block()) {
        let bytes = builder.build().unwrap();
        let block = StatusBlock::read(&bytes).unwrap();
        block.check().unwrap();
        prop_assert_eq!(block.len(), bytes.len());
        let mut again = StatusBlockBuilder::new(block.header().severity());
        for entry in block.entries() {
            let entry = entry.unwrap();
            prop_assert!(entry.section.is_ok(), "{:?}", entry.section);
            let timestamp = entry.timestamp.copied().unwrap_or_default();
            again.entry(*entry.header, timestamp, entry.bytes);
        }
        again.raw_data(block.raw_data());
        prop_assert_eq!(again.build().unwrap(), bytes);
    }

    #[test]
    fn what_follows_is_left_alone(builder in record(), junk in vec(any::<u8>(), 0..50)) {
        let bytes = builder.build().unwrap();
        let longer = [&bytes[..], &junk].concat();
        prop_assert_eq!(Record::read(&longer).unwrap().bytes(), &bytes);
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..600)) {
        read_all(&bytes);
    }

    #[test]
    fn no_damage_makes_a_reader_panic(
        builder in record(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = builder.build().unwrap();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        read_all(&bytes);
        read_all(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn no_damage_to_a_status_block_makes_a_reader_panic(
        builder in status_block(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = builder.build().unwrap();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        read_all(&bytes);
    }

    #[test]
    fn a_section_that_is_cut_short_is_never_read_past_its_end(
        (kind, bytes) in section(),
        cut in any::<prop::sample::Index>(),
    ) {
        let short = &bytes[..cut.index(bytes.len().max(1)).min(bytes.len())];
        if let Err(Error { offset, .. }) = Section::read_at(kind, short, 1000) {
            prop_assert!((1000..=1000 + short.len()).contains(&offset));
        }
    }
}

#[test]
fn an_error_says_where_and_why() {
    let mut builder = RecordBuilder::new(Severity::Fatal, section_type::MEMORY);
    let descriptor = SectionDescriptor {
        section_type: section_type::MEMORY_2,
        ..SectionDescriptor::default()
    };
    let bytes = builder.section(descriptor, &[0; 95]).build().unwrap();

    let cut = Record::read(&bytes[..100]).unwrap_err();
    assert_eq!(cut.offset, 0);
    assert_eq!(
        cut.to_string(),
        "at byte 0 (0x0): a record header needs 128 bytes and 100 are left: the input is cut short"
    );
    let longer_than_it_is = Record::read(&bytes[..200]).unwrap_err();
    assert_eq!(longer_than_it_is.offset, 20);

    let record = Record::read_at(&bytes, 4000).unwrap();
    let section = record.sections().next().unwrap().section.unwrap_err();
    assert_eq!(section.offset, 4200);
    assert!(matches!(
        section.reason,
        Reason::Truncated {
            needed: 96,
            available: 95,
            ..
        }
    ));
}

#[test]
fn a_section_that_leads_out_of_its_record_spares_the_others() {
    let descriptor = SectionDescriptor::default();
    let mut builder = RecordBuilder::new(Severity::Fatal, section_type::MEMORY);
    let mut bytes = builder
        .section(descriptor, &[1, 2, 3])
        .section(descriptor, &[4, 5])
        .build()
        .unwrap();
    bytes[128..132].copy_from_slice(&u32::MAX.to_le_bytes());
    let record = Record::read(&bytes).unwrap();
    let sections: Vec<_> = record.sections().collect();
    assert_eq!(sections[0].section.unwrap_err().offset, 128);
    assert_eq!(sections[1].bytes, [4, 5]);
}

#[test]
fn an_entry_of_either_revision_has_its_section_where_linux_looks_for_it() {
    for (revision, size) in [(0x201, 64), (0x300, 72)] {
        let header = DataEntryHeader {
            revision: revision.into(),
            section_type: section_type::MEMORY,
            ..DataEntryHeader::default()
        };
        let bytes = StatusBlockBuilder::new(Severity::Recoverable)
            .entry(header, Timestamp::default(), &[0xab; 80])
            .build()
            .unwrap();
        assert_eq!(bytes.len(), 20 + size + 80);
        assert_eq!(bytes[20 + size..], [0xab; 80]);
        // Uncorrected, one entry.
        assert_eq!(bytes[..4], 0x11_u32.to_le_bytes());
    }
}

#[test]
fn a_count_that_is_not_that_of_the_entries_is_found() {
    let mut bytes = StatusBlockBuilder::new(Severity::Recoverable)
        .build()
        .unwrap();
    bytes[0] = 0x11;
    let error = StatusBlock::read(&bytes).unwrap().check().unwrap_err();
    assert!(error.to_string().contains("entry count is 1"), "{error}");
    // Read by Linux: whatever lies in it does not count.
    bytes[0] = 0;
    assert_eq!(StatusBlock::read(&bytes).unwrap().check(), Ok(()));
}

#[test]
fn raw_data_inside_the_entries_is_refused_as_linux_does() {
    let mut bytes = StatusBlockBuilder::new(Severity::Recoverable)
        .entry(DataEntryHeader::default(), Timestamp::default(), &[1])
        .raw_data(&[1, 2, 3])
        .build()
        .unwrap();
    assert_eq!(StatusBlock::read(&bytes).unwrap().raw_data(), [1, 2, 3]);
    bytes[4] -= 1;
    let error = StatusBlock::read(&bytes).unwrap_err();
    assert_eq!(error.offset, 4);
}

#[test]
fn known_structures_have_their_published_layout() {
    // QEMU's record for a failed page, hw/acpi/ghes.c: revision 0x300, valid bits 1 and 14.
    let mut memory = pagemend_cper::section::memory::MemoryError::default();
    memory.short.validation = (1 << 1 | 1 << 14).into();
    memory.short.physical_address = 0x4000_2000.into();
    let bytes = memory.as_bytes();
    assert_eq!(bytes[..8], 0x4002_u64.to_le_bytes());
    assert_eq!(bytes[16..24], 0x4000_2000_u64.to_le_bytes());
    assert_eq!(bytes[72], 0);
}
