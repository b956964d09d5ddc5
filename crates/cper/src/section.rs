//! What a section of a record or of a status block says, by its type.

pub mod arm;
pub mod memory;
pub mod memory_status;
pub mod registers;
pub mod x86;

use crate::error::Error;
use crate::guid::{Guid, section_type};
use crate::input::Input;
use arm::ArmError;
use memory::{MemoryError, MemoryError2, ShortMemoryError};
use x86::X86Error;

/// A section, seen where it lies. Bytes behind what is known of a type are left alone, as in Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Section<'a> {
    /// Memory error.
    Memory(&'a MemoryError),
    /// Memory error in the shorter form of UEFI 2.1 and 2.2, which some firmware still writes.
    ShortMemory(&'a ShortMemoryError),
    /// Memory error 2.
    Memory2(&'a MemoryError2),
    /// ARM processor error.
    Arm(ArmError<'a>),
    /// IA32/X64 processor error.
    X86(X86Error<'a>),
    /// A type of which nothing more is known here.
    Unknown {
        /// The type.
        section_type: Guid,
        /// All of it.
        bytes: &'a [u8],
    },
}

impl<'a> Section<'a> {
    /// Sees `bytes` as a section of that type.
    ///
    /// # Errors
    ///
    /// Where they are too few, or contradict themselves.
    pub fn read(section_type: Guid, bytes: &'a [u8]) -> Result<Self, Error> {
        Self::read_at(section_type, bytes, 0)
    }

    /// The same, of bytes that start at `offset` of the whole, by which errors are told.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    #[inline]
    pub fn read_at(section_type: Guid, bytes: &'a [u8], offset: usize) -> Result<Self, Error> {
        let mut input = Input::new(bytes, offset);
        match section_type {
            section_type::MEMORY if bytes.len() < size_of::<MemoryError>() => {
                input.take("a memory error section").map(Self::ShortMemory)
            }
            section_type::MEMORY => input.take("a memory error section").map(Self::Memory),
            section_type::MEMORY_2 => input.take("a memory error section 2").map(Self::Memory2),
            section_type::ARM => ArmError::read(input).map(Self::Arm),
            section_type::IA32_X64 => X86Error::read(input).map(Self::X86),
            section_type => Ok(Self::Unknown {
                section_type,
                bytes,
            }),
        }
    }

    /// The physical address that the section says has failed, in bytes.
    pub fn physical_address(&self) -> Option<u64> {
        match self {
            Self::Memory(memory) => memory.physical_address(),
            Self::ShortMemory(memory) => memory.physical_address(),
            Self::Memory2(memory) => memory.physical_address(),
            Self::Arm(arm) => arm.infos.iter().find_map(|info| info.physical_address()),
            Self::X86(_) | Self::Unknown { .. } => None,
        }
    }
}
