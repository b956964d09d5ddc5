//! Error records of platform firmware: how real machines tell an operating system about memory errors,
//! and how a VMM can tell its guest.
//!
//! # What is in it
//!
//! | | read | write | specification |
//! |---|---|---|---|
//! | CPER records, as ERST and pstore keep them | [`Record`](record::Record) | [`RecordBuilder`](record::RecordBuilder) | UEFI 2.10, appendix N |
//! | generic error status blocks, as GHES and BERT leave them in memory | [`StatusBlock`](status::StatusBlock) | [`StatusBlockBuilder`](status::StatusBlockBuilder) | ACPI 6.5, 18.3.2.7 |
//! | the status block that tells a guest of a lost page | | [`LostPage`](lost::LostPage) | |
//! | sections: memory, memory 2, ARM, IA32/X64; any other as its bytes | [`Section`](section::Section) | the structures' own bytes | UEFI 2.10, N.2 |
//! | HEST, BERT, ERST, EINJ | [`acpi`] | [`acpi`] | ACPI 6.5, 18.3 to 18.6 |
//! | the JSON form that openbmc/libcper has too | `json` | `json` | |
//! | what a Linux kernel logged of records | [`log`] | | drivers/firmware/efi/cper.c |
//!
//! # How it reads
//!
//! Nothing is copied or allocated: a structure is a reference into the input, checked once. Numbers in
//! it are of [`zerocopy::little_endian`] types, whose `get` gives the number. Fields whose validation
//! bit is clear are `None` in the accessors, and still there as fields. No input makes it panic; an
//! [`Error`](error::Error) says at which byte the input stops making sense, and why.
//!
//! ```
//! use pagemend_cper::record::Record;
//! use pagemend_cper::section::Section;
//!
//! # fn main() -> Result<(), pagemend_cper::error::Error> {
//! # use pagemend_cper::{guid, record, section::memory::MemoryError, severity::Severity};
//! # let mut memory = MemoryError::default();
//! # memory.short.validation = 2.into();
//! # memory.short.physical_address = 0x1234_5000.into();
//! # let descriptor = record::SectionDescriptor { section_type: guid::section_type::MEMORY, ..Default::default() };
//! # let bytes = record::RecordBuilder::new(Severity::Recoverable, guid::notification_type::CPE)
//! #     .section(descriptor, zerocopy::IntoBytes::as_bytes(&memory)).build().unwrap();
//! let record = Record::read(&bytes)?;
//! for section in record.sections() {
//!     if let Section::Memory(memory) = section.section? {
//!         assert_eq!(memory.physical_address(), Some(0x1234_5000));
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod bits;
pub mod error;
pub mod guid;
mod input;

#[cfg(feature = "json")]
pub mod json;

pub mod linux;
pub mod log;
pub mod lost;
pub mod record;
pub mod section;
pub mod severity;
pub mod status;
pub mod time;
mod wire;
