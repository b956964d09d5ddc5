//! Records and status blocks of every kind, for the property tests.

#![allow(dead_code, reason = "each test binary uses what it needs")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use pagemend_cper::guid::{Guid, notification_type, section_type};
use pagemend_cper::record::{RecordBuilder, SectionDescriptor};
use pagemend_cper::section::arm::{ArmContextHeader, ArmErrorInfo, ArmHeader};
use pagemend_cper::section::memory::{MemoryError, MemoryError2, ShortMemoryError};
use pagemend_cper::section::x86::{CheckKind, X86ContextHeader, X86ErrorInfo, X86Header};
use pagemend_cper::severity::Severity;
use pagemend_cper::status::{DataEntryHeader, StatusBlockBuilder};
use pagemend_cper::time::Timestamp;
use proptest::collection::vec;
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

/// A structure of any bytes.
pub(crate) fn any_of<T: FromBytes + std::fmt::Debug>() -> impl Strategy<Value = T> {
    vec(any::<u8>(), size_of::<T>()).prop_map(|bytes| T::read_from_bytes(&bytes).unwrap())
}

/// A section of a known type or of an unknown one, well-formed, with any numbers in it.
pub(crate) fn section() -> impl Strategy<Value = (Guid, Vec<u8>)> {
    let of = |guid, bytes: BoxedStrategy<Vec<u8>>| bytes.prop_map(move |bytes| (guid, bytes));
    prop_oneof![
        of(section_type::MEMORY, plain::<MemoryError>()),
        of(section_type::MEMORY, plain::<ShortMemoryError>()),
        of(section_type::MEMORY_2, plain::<MemoryError2>()),
        of(section_type::ARM, arm()),
        of(section_type::IA32_X64, x86()),
        (any_of::<Guid>(), vec(any::<u8>(), 0..100)),
        of(section_type::PCIE, vec(any::<u8>(), 208).boxed()),
    ]
}

fn plain<T: FromBytes + IntoBytes + zerocopy::Immutable + std::fmt::Debug + 'static>()
-> BoxedStrategy<Vec<u8>> {
    any_of::<T>()
        .prop_map(|value| value.as_bytes().to_vec())
        .boxed()
}

fn arm() -> BoxedStrategy<Vec<u8>> {
    let context = (
        0_u16..10,
        any::<u16>(),
        any::<bool>(),
        vec(any::<u8>(), 0..300),
    );
    let parts = (
        any_of::<ArmHeader>(),
        vec((any_of::<ArmErrorInfo>(), 0_u8..6), 0..4),
        vec(context, 0..3),
        vec(any::<u8>(), 0..40),
    );
    parts
        .prop_map(|(mut header, infos, contexts, vendor)| {
            let mut after = Vec::new();
            for (mut info, error_type) in infos.iter().copied() {
                info.error_type = error_type;
                after.extend_from_slice(info.as_bytes());
            }
            for (context_type, version, whole, registers) in &contexts {
                let layout = pagemend_cper::section::registers::arm_layout(*context_type, 1000);
                let size = layout.map(pagemend_cper::section::registers::size);
                let mut registers = registers.clone();
                registers.resize(size.filter(|_| *whole).unwrap_or(registers.len()), 7);
                let header = ArmContextHeader {
                    version: (*version).into(),
                    context_type: (*context_type).into(),
                    size: u32::try_from(registers.len()).unwrap().into(),
                };
                after.extend_from_slice(header.as_bytes());
                after.extend_from_slice(&registers);
            }
            after.extend_from_slice(&vendor);
            header.info_count = u16::try_from(infos.len()).unwrap().into();
            header.context_count = u16::try_from(contexts.len()).unwrap().into();
            header.section_length = u32::try_from(40 + after.len()).unwrap().into();
            [header.as_bytes(), &after].concat()
        })
        .boxed()
}

fn x86() -> BoxedStrategy<Vec<u8>> {
    let info = (any_of::<X86ErrorInfo>(), 0_usize..5);
    let context = (
        any_of::<X86ContextHeader>(),
        0_u16..9,
        any::<bool>(),
        vec(any::<u8>(), 0..300),
    );
    (any_of::<X86Header>(), vec(info, 0..4), vec(context, 0..3))
        .prop_map(|(mut header, infos, contexts)| {
            let counts = infos.len() << 2 | contexts.len() << 8;
            let flags = header.validation.get() & 3;
            header.validation = (flags | counts as u64).into();
            let mut bytes = header.as_bytes().to_vec();
            for (mut info, kind) in infos {
                if let Some((_, guid)) = CheckKind::ALL.get(kind) {
                    info.error_type = *guid;
                }
                bytes.extend_from_slice(info.as_bytes());
            }
            for (mut header, context_type, whole, mut registers) in contexts {
                let layout = pagemend_cper::section::registers::x86_layout(context_type, 1000);
                let size = layout.map(pagemend_cper::section::registers::size);
                registers.resize(size.filter(|_| whole).unwrap_or(registers.len()), 7);
                header.context_type = context_type.into();
                header.size = u16::try_from(registers.len()).unwrap().into();
                bytes.extend_from_slice(header.as_bytes());
                bytes.extend_from_slice(&registers);
            }
            bytes
        })
        .boxed()
}

/// A time stamp that is a date.
pub(crate) fn timestamp() -> impl Strategy<Value = Timestamp> {
    let bcd = |range: std::ops::RangeInclusive<u8>| range.prop_map(|n| n / 10 * 16 + n % 10);
    let clock = (bcd(0..=59), bcd(0..=59), bcd(0..=23), 0_u8..2);
    let date = (bcd(1..=31), bcd(1..=12), bcd(0..=99), bcd(0..=99));
    (clock, date).prop_map(
        |((seconds, minutes, hours, flags), (day, month, year, century))| Timestamp {
            seconds,
            minutes,
            hours,
            flags,
            day,
            month,
            year,
            century,
        },
    )
}

/// A record of up to four sections.
pub(crate) fn record() -> impl Strategy<Value = RecordBuilder> {
    let severity = (0_u32..5).prop_map(Severity::from);
    let notification = prop_oneof![
        Just(notification_type::CPE),
        Just(notification_type::SEA),
        any_of::<Guid>(),
    ];
    let header = (
        severity,
        notification,
        timestamp(),
        any::<[u64; 2]>(),
        0_u32..8,
    );
    let descriptor = (any_of::<SectionDescriptor>(), "[ -~]{0,20}");
    (header, vec((descriptor, section()), 0..4)).prop_map(
        |((severity, notification, timestamp, [id, persistence], validation), sections)| {
            let mut builder = RecordBuilder::new(severity, notification);
            builder.header.timestamp = timestamp;
            builder.header.record_id = id.into();
            builder.header.persistence = persistence.into();
            builder.header.validation = validation.into();
            for ((mut descriptor, text), (kind, bytes)) in sections {
                descriptor.section_type = kind;
                descriptor.fru_text = [0; 20];
                descriptor.fru_text[..text.len()].copy_from_slice(text.as_bytes());
                builder.section(descriptor, &bytes);
            }
            builder
        },
    )
}

/// A status block of up to four entries of either revision.
pub(crate) fn status_block() -> impl Strategy<Value = StatusBlockBuilder> {
    let entry = (
        any_of::<DataEntryHeader>(),
        any::<bool>(),
        timestamp(),
        section(),
    );
    (0_u32..5, vec(entry, 0..4), vec(any::<u8>(), 0..30)).prop_map(|(severity, entries, raw)| {
        let mut builder = StatusBlockBuilder::new(severity.into());
        for (mut header, stamped, timestamp, (kind, bytes)) in entries {
            header.section_type = kind;
            header.revision = if stamped { 0x300 } else { 0x201 }.into();
            builder.entry(header, timestamp, &bytes);
        }
        builder.raw_data(&raw);
        builder
    })
}
