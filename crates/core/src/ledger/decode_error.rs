//! Why a ledger that comes from outside is refused.

use thiserror::Error;

/// Why bytes or JSON are no ledger.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes do not start like a ledger.
    #[error("not a ledger: it does not start with the magic bytes")]
    BadMagic,
    /// A later version wrote it.
    #[error("ledger version {found} is not supported, only {supported}")]
    UnsupportedVersion {
        /// The version it has.
        found: u32,
        /// The version that is understood.
        supported: u32,
    },
    /// The JSON is not of the ledger's schema.
    #[error("schema {found:?} is not supported, only {supported:?}")]
    UnsupportedSchema {
        /// The schema it names.
        found: String,
        /// The schema that is understood.
        supported: &'static str,
    },
    /// The bytes end too early.
    #[error("truncated: something is missing at offset {offset}")]
    Truncated {
        /// Where the bytes that are missing should start.
        offset: u64,
    },
    /// Bytes follow behind the end.
    #[error("the ledger ends at offset {offset}, but bytes follow")]
    TrailingBytes {
        /// Where the ledger ends.
        offset: u64,
    },
    /// The bytes were changed since they were written.
    #[error("checksum mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    Checksum {
        /// The CRC-32 at the end.
        stored: u32,
        /// The CRC-32 of what is there.
        computed: u32,
    },
    /// The content contradicts itself, or what a ledger can hold.
    #[error("inconsistent at generation {generation}: {reason}")]
    Inconsistent {
        /// Where in the ledger's history.
        generation: u64,
        /// What is wrong there.
        reason: &'static str,
    },
}
