//! Reading costs no memory: the allocator counts.

#![allow(unsafe_code, reason = "an allocator that counts is one")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use pagemend_cper::guid::{notification_type, section_type};
use pagemend_cper::record::{Record, RecordBuilder, SectionDescriptor};
use pagemend_cper::section::Section;
use pagemend_cper::severity::Severity;
use pagemend_cper::status::{DataEntryHeader, StatusBlock, StatusBlockBuilder};
use pagemend_cper::time::Timestamp;

struct Counting;

thread_local! {
    /// Of this thread alone: the test harness allocates in its own.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; counting in a `Cell` without a
// destructor allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sections of every type that is known, and one that is not; zeroes are valid for each.
const SECTIONS: [(pagemend_cper::guid::Guid, usize); 6] = [
    (section_type::MEMORY, 80),
    (section_type::MEMORY, 73),
    (section_type::MEMORY_2, 96),
    (section_type::ARM, 40),
    (section_type::IA32_X64, 64),
    (section_type::PCIE, 208),
];

fn bytes_of(kind: pagemend_cper::guid::Guid, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    if kind == section_type::ARM {
        bytes[8] = 40;
    }
    bytes
}

fn use_up(section: Section<'_>) {
    black_box(section.physical_address());
    match section {
        Section::Memory(memory) => drop(black_box((memory.bank(), memory.row(), memory.rank()))),
        Section::Arm(arm) => drop(black_box(arm.contexts().count())),
        Section::X86(x86) => drop(black_box(x86.contexts().count())),
        other => drop(black_box(other)),
    }
}

#[test]
fn reading_allocates_nothing() {
    let mut record = RecordBuilder::new(Severity::Recoverable, notification_type::CPE);
    let mut block = StatusBlockBuilder::new(Severity::Recoverable);
    for (section_type, length) in SECTIONS {
        let bytes = bytes_of(section_type, length);
        let descriptor = SectionDescriptor {
            section_type,
            ..SectionDescriptor::default()
        };
        record.section(descriptor, &bytes);
        let header = DataEntryHeader {
            section_type,
            revision: 0x300.into(),
            ..DataEntryHeader::default()
        };
        block.entry(header, Timestamp::default(), &bytes);
    }
    let (record, block) = (record.build().unwrap(), block.build().unwrap());

    let before = ALLOCATIONS.get();
    assert!(before > 0, "the allocator does not count");
    let mut sections = 0;
    for section in Record::read(black_box(&record)).unwrap().sections() {
        use_up(section.section.unwrap());
        sections += 1;
    }
    let block = StatusBlock::read(black_box(&block)).unwrap();
    for entry in block.entries() {
        use_up(entry.unwrap().section.unwrap());
        sections += 1;
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!(sections, 2 * SECTIONS.len());
}
