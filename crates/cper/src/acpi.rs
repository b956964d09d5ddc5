//! The ACPI tables of platform errors: where errors are reported (HEST), what happened before the last
//! boot (BERT), where records are kept (ERST) and how errors are injected (EINJ).
//!
//! HEST and BERT can be written as well. The crate `acpi_tables` writes these two and reads none; tables
//! that have to be read anyway are the same structures here in both directions, and the tests hold what
//! is written against that crate and against `iasl`.

pub mod bert;
pub mod gas;
pub mod hest;
pub mod instructions;
pub mod table;

pub use table::{Table, TableHeader};
