//! What a record says: which frames are lost.

use pagemend_core::address::Gpa;
use pagemend_cper::guid::section_type;
use pagemend_cper::section::memory::{MemoryError, ShortMemoryError};
use pagemend_cper::severity::Severity;
use pagemend_cper::status::{DataEntryHeader, StatusBlockBuilder};
use pagemend_cper::time::Timestamp;
use zerocopy::IntoBytes;

/// Bytes that a status block can have: what Linux prints at most of a boot's error records
/// (`ACPI_BERT_PRINT_MAX_LEN`, drivers/acpi/apei/bert.c), and the size of QEMU's.
pub const BLOCK_LEN: u32 = 1024;

/// Frames that one status block can name, each in an entry of its own.
pub const BLOCK_FRAMES: usize = (BLOCK_LEN as usize - HEADER) / ENTRY;

/// Bytes of a status block's header, and of an entry: header, time stamp, memory section.
const HEADER: usize = 20;
const ENTRY: usize = 72 + 80;

/// Revision of the entries: the first with a time stamp (ACPI 6.1), which Linux checks for.
const REVISION: u16 = 0x300;

/// Validation bits of a memory section (UEFI 2.10, N.2.5): physical address and error type.
const VALID: u64 = 1 << 1 | 1 << 14;
/// "Scrub uncorrected error": nobody has touched it.
const SCRUB_UNCORRECTED: u8 = 14;

/// A status block that names `frames`, each whole.
///
/// A section has a mask for addresses, by which one could name many frames. Linux takes one frame
/// of each section whatever its mask (`ghes_do_memory_failure`), so each frame has a section.
///
/// # Panics
///
/// With more than [`BLOCK_FRAMES`].
pub fn status_block(frames: &[Gpa]) -> Vec<u8> {
    assert!(
        frames.len() <= BLOCK_FRAMES,
        "a block names {BLOCK_FRAMES} frames at most"
    );
    let severity = Severity::Recoverable;
    let mut block = StatusBlockBuilder::new(severity);
    for frame in frames {
        let header = DataEntryHeader {
            section_type: section_type::MEMORY,
            severity: u32::from(severity).into(),
            revision: REVISION.into(),
            ..Default::default()
        };
        let section = MemoryError {
            short: ShortMemoryError {
                validation: VALID.into(),
                physical_address: frame.frame().get().into(),
                error_type: SCRUB_UNCORRECTED,
                ..Default::default()
            },
            ..Default::default()
        };
        block.entry(header, Timestamp::default(), section.as_bytes());
    }
    let bytes = block.build();
    bytes.expect("a few entries are fewer than a block can count")
}

/// What was lost before the guest was started again, for the region that a BERT names (ACPI 6.5,
/// 18.3.1): status blocks one behind the other, as Linux reads them, and zeroes from there on.
/// Linux prints the first five; all are in `/sys/firmware/acpi/tables/data/BERT`.
///
/// Gives the bytes, and how many of the frames are named in them.
pub fn boot_errors(frames: &[Gpa], len: usize) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut named = 0;
    for frames in frames.chunks(BLOCK_FRAMES) {
        let block = status_block(frames);
        // The end is marked by an empty header.
        if bytes.len() + block.len() + HEADER > len {
            break;
        }
        bytes.extend(block);
        named += frames.len();
    }
    bytes.resize(len, 0);
    (bytes, named)
}

#[cfg(test)]
mod tests {
    use pagemend_cper::section::Section;
    use pagemend_cper::status::StatusBlock;
    use proptest::prelude::*;

    use super::*;

    fn frames(numbers: &[u64]) -> Vec<Gpa> {
        numbers
            .iter()
            .map(|number| Gpa::new(number << 12))
            .collect()
    }

    fn named(block: &StatusBlock<'_>) -> Vec<Gpa> {
        let entries = block.entries().map(|entry| entry.unwrap());
        let address = |section| match section {
            Ok(Section::Memory(memory)) => memory.physical_address(),
            _ => None,
        };
        entries
            .map(|entry| Gpa::new(address(entry.section).unwrap()))
            .collect()
    }

    #[test]
    fn a_record_is_one_that_linux_acts_on() {
        let bytes = status_block(&[Gpa::new(0x12_3456)]);
        assert_eq!(bytes.len(), HEADER + ENTRY);
        let block = StatusBlock::read(&bytes).unwrap();
        // Uncorrected, one entry.
        assert_eq!(block.header().block_status.get(), 0x11);
        assert_eq!(block.header().severity(), Severity::Recoverable);
        let entry = block.entries().next().unwrap().unwrap();
        assert_eq!(entry.header.section_type, section_type::MEMORY);
        assert_eq!(entry.header.severity(), Severity::Recoverable);
        assert_eq!(entry.header.revision.get(), 0x300);
        let Ok(Section::Memory(memory)) = entry.section else {
            panic!("{:?}", entry.section);
        };
        assert_eq!(memory.physical_address(), Some(0x12_3000));
        assert_eq!(memory.physical_address_mask(), None);
        assert_eq!(memory.error_type(), Some(SCRUB_UNCORRECTED));
    }

    #[test]
    fn a_full_block_fits() {
        let all = frames(&(0..BLOCK_FRAMES as u64).collect::<Vec<_>>());
        let bytes = status_block(&all);
        assert!(bytes.len() < BLOCK_LEN as usize);
        assert!(bytes.len() + ENTRY > BLOCK_LEN as usize);
        let block = StatusBlock::read(&bytes).unwrap();
        block.check().unwrap();
        assert_eq!(named(&block), all);
    }

    proptest! {
        #[test]
        fn boot_errors_are_blocks_up_to_an_empty_one(
            numbers in prop::collection::vec(0u64..1 << 40, 0..60),
            len in 64usize..8192,
        ) {
            let all = frames(&numbers);
            let (bytes, count) = boot_errors(&all, len);
            prop_assert_eq!(bytes.len(), len);
            let mut read = vec![];
            let mut at = 0;
            loop {
                let block = StatusBlock::read(&bytes[at..]).unwrap();
                if block.header().block_status.get() == 0 {
                    break;
                }
                block.check().unwrap();
                read.extend(named(&block));
                at += block.len();
            }
            prop_assert_eq!(&read[..], &all[..count]);
            prop_assert!(count == all.len() || len - at < HEADER + BLOCK_FRAMES * ENTRY + HEADER);
        }
    }
}
