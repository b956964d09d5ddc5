//! Records as JSON, in the form that openbmc/libcper calls its intermediate representation.
//!
//! For the sections that both know, what one of them writes the other reads. Where they differ:
//!
//! - libcper adds a `message` to sections, which is text about the fields beside it. It is not written
//!   here, and ignored in what is read.
//! - A memory section's `bank` is left out where no bit says that it is valid; libcper writes
//!   `{"address": 0, "group": 0}` then.
//! - The physical address of a memory section 2 is there where its own validation bit says so; libcper
//!   looks at that of the error status. The same goes for the access mode of an ARM bus error.
//! - Error information and check information of a kind without fields is `{"value": number}`, so that it
//!   is not lost; libcper leaves it out.
//! - libcper up to 0.0.4 has no names for two types of IA32/X64 microarchitecture errors.
//! - Registers whose number of bytes is not what their type has, and sections that are damaged, are
//!   their bytes in base64.
//!
//! What has no place in the form is lost: fields and bits that are not valid, reserved ones, and bytes
//! between sections.

mod arm;
mod memory;
mod node;
mod numbers;
mod record;
mod registers;
mod section;
mod status;
mod x86;

pub use node::JsonError;
pub use record::{record_from_json, record_to_json};
pub use section::{section_from_json, section_to_json};
pub use status::{status_from_json, status_to_json};
