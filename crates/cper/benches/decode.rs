//! Compares reading records with copying them: a memcpy of the same bytes is the least that looking at
//! them costs. Throughput in bytes and in records, for a log of 10000 records with a memory section each,
//! as a memory controller with a bad DIMM leaves it, and for the same as status blocks.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pagemend_cper::guid::{notification_type, section_type};
use pagemend_cper::record::{Record, RecordBuilder, SectionDescriptor};
use pagemend_cper::section::memory::MemoryError;
use pagemend_cper::severity::Severity;
use pagemend_cper::status::{DataEntryHeader, StatusBlock, StatusBlockBuilder};
use pagemend_cper::time::Timestamp;
use zerocopy::IntoBytes;

const COUNT: u64 = 10_000;

fn memory(number: u64) -> MemoryError {
    let mut memory = MemoryError::default();
    memory.short.validation = (1 << 1 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 14).into();
    memory.short.physical_address = (number << 12).into();
    memory.short.node = 1.into();
    memory.short.module = 3.into();
    memory.short.row = ((number & 0xffff) as u16).into();
    memory.short.error_type = 3;
    memory
}

fn records() -> Vec<u8> {
    let descriptor = SectionDescriptor {
        section_type: section_type::MEMORY,
        ..SectionDescriptor::default()
    };
    let record = |number| {
        RecordBuilder::new(Severity::Recoverable, notification_type::CPE)
            .section(descriptor, memory(number).as_bytes())
            .build()
            .expect("one section fits")
    };
    (0..COUNT).flat_map(record).collect()
}

fn blocks() -> Vec<u8> {
    let header = DataEntryHeader {
        section_type: section_type::MEMORY,
        revision: 0x300.into(),
        ..DataEntryHeader::default()
    };
    let block = |number| {
        StatusBlockBuilder::new(Severity::Recoverable)
            .entry(header, Timestamp::default(), memory(number).as_bytes())
            .build()
            .expect("one entry fits")
    };
    (0..COUNT).flat_map(block).collect()
}

/// The sum of all addresses, rows and DIMMs, so that every field counts.
fn read_records(mut bytes: &[u8]) -> u64 {
    let mut sum = 0_u64;
    while let Ok(record) = Record::read(bytes) {
        for section in record.sections() {
            if let Ok(section) = section.section {
                sum = sum.wrapping_add(fields(&section));
            }
        }
        bytes = &bytes[record.bytes().len()..];
    }
    sum
}

fn read_blocks(mut bytes: &[u8]) -> u64 {
    let mut sum = 0_u64;
    while let Ok(block) = StatusBlock::read(bytes) {
        for entry in block.entries().flatten() {
            if let Ok(section) = entry.section {
                sum = sum.wrapping_add(fields(&section));
            }
        }
        bytes = &bytes[block.len()..];
    }
    sum
}

fn fields(section: &pagemend_cper::section::Section<'_>) -> u64 {
    let pagemend_cper::section::Section::Memory(memory) = section else {
        return 0;
    };
    let row = memory.row().unwrap_or(0);
    let module = memory.module().unwrap_or(0);
    memory.physical_address().unwrap_or(0) + u64::from(row) + u64::from(module)
}

fn compare(criterion: &mut Criterion) {
    for (name, input, read) in [
        ("records", records(), read_records as fn(&[u8]) -> u64),
        ("status_blocks", blocks(), read_blocks),
    ] {
        assert_ne!(read(&input), 0, "nothing was read");
        let mut copy = vec![0; input.len()];
        for unit in [
            Throughput::Bytes(input.len() as u64),
            Throughput::Elements(COUNT),
        ] {
            let of = match unit {
                Throughput::Bytes(_) => "bytes",
                _ => "records",
            };
            let mut group = criterion.benchmark_group(format!("{name}/{of}"));
            group.throughput(unit);
            group.bench_function("read", |bencher| bencher.iter(|| read(black_box(&input))));
            group.bench_function("memcpy", |bencher| {
                bencher.iter(|| black_box(&mut copy).copy_from_slice(black_box(&input)));
            });
        }
    }
}

criterion_group!(benches, compare);
criterion_main!(benches);
