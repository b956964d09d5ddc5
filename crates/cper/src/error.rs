//! What is wrong with input, and where: a damaged record is the normal case for whoever reads these.

/// Why bytes are not what they were read as, and at which byte of the input it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset} ({offset:#x}): {reason}")]
pub struct Error {
    /// Byte of the input, counted from 0, at which the structure lies that is wrong.
    pub offset: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The input ends inside the structure.
    #[error("{what} needs {needed} bytes and {available} are left: the input is cut short")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Bytes that it takes.
        needed: usize,
        /// Bytes that there are.
        available: usize,
    },
    /// A signature is not there.
    #[error("{what} starts with {expected:?}, and this does not")]
    Signature {
        /// The structure.
        what: &'static str,
        /// What it starts with.
        expected: &'static str,
    },
    /// A field says something that contradicts the rest.
    #[error("{field} is {value}, which {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it holds.
        value: u64,
        /// What is wrong with that.
        problem: &'static str,
    },
    /// The bytes of a table do not add up to 0.
    #[error("the bytes of the table add up to {sum:#04x} instead of 0: it is damaged")]
    Checksum {
        /// What they add up to, modulo 256.
        sum: u8,
    },
}

impl Error {
    pub(crate) fn field(
        offset: usize,
        field: &'static str,
        value: u64,
        problem: &'static str,
    ) -> Self {
        let reason = Reason::Field {
            field,
            value,
            problem,
        };
        Self { offset, reason }
    }
}
