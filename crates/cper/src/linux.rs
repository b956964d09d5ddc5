//! What a Linux kernel does about an error that firmware reports to it, read from
//! drivers/acpi/apei/ghes.c (`ghes_do_proc`, `ghes_handle_memory_failure`, `ghes_proc`) of Linux 6.12.

use crate::section::Section;
use crate::section::arm::ErrorKind;
use crate::severity::Severity;
use crate::status::DataEntry;

/// What the kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reaction {
    /// It panics.
    Panic,
    /// It takes the page around the address out of use, and signals who depends on it:
    /// `memory_failure()`. Needs `CONFIG_MEMORY_FAILURE`.
    TakePageOut {
        /// The address, in bytes.
        address: u64,
    },
    /// It moves what is on the page elsewhere and retires it: `soft_offline_page()`, unless
    /// `vm.enable_soft_offline` is 0.
    RetirePage {
        /// The address, in bytes.
        address: u64,
    },
    /// It writes the record to its log, and that is all.
    Log(Why),
}

/// Why it does no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// The error was corrected, and is below the firmware's threshold.
    Corrected,
    /// It is a notice.
    Informational,
    /// The record does not say which address failed.
    NoAddress,
    /// It acts on memory errors in the first form of the section only.
    SecondForm,
    /// The entry is not recoverable, or the block as a whole is not.
    Severity,
    /// Nothing in the kernel acts on sections of this type by itself, or what does is not known here.
    Type,
}

impl Why {
    /// The reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Corrected => "the error was corrected and is below the firmware's threshold",
            Self::Informational => "it is a notice",
            Self::NoAddress => "the record does not say which address failed",
            Self::SecondForm => "it acts on memory error sections of the first form only",
            Self::Severity => "the block and this entry are not both recoverable",
            Self::Type => "nothing acts on sections of this type by itself",
        }
    }
}

/// The bit of a section's flags that says that errors have passed the firmware's threshold.
const THRESHOLD_EXCEEDED: u8 = 1 << 3;

/// What the kernel does with an entry of a status block of severity `block` that a GHES delivers. ARM
/// cache errors are those by number, as 6.12 has it, and those by bits, as later kernels do.
pub fn reaction(block: Severity, entry: &DataEntry<'_>) -> Reaction {
    let severity = entry.header.severity();
    if matches!(block, Severity::Fatal | Severity::Unknown(_)) {
        return Reaction::Panic;
    }
    let recoverable = block == Severity::Recoverable && severity == Severity::Recoverable;
    let over_threshold =
        severity == Severity::Corrected && entry.header.flags & THRESHOLD_EXCEEDED != 0;
    match (&entry.section, severity) {
        (Ok(section @ (Section::Memory(_) | Section::ShortMemory(_))), _)
            if recoverable || over_threshold =>
        {
            match section.physical_address() {
                Some(address) if recoverable => Reaction::TakePageOut { address },
                Some(address) => Reaction::RetirePage { address },
                None => Reaction::Log(Why::NoAddress),
            }
        }
        (Ok(Section::Arm(arm)), _) if recoverable => {
            let failed = arm.infos.iter().find_map(|info| {
                let by_bits =
                    ErrorKind::by_bits(info.error_type).any(|kind| kind == ErrorKind::Cache);
                let cache = by_bits || info.error_type == 0;
                info.physical_address().filter(|_| cache)
            });
            match failed {
                Some(address) => Reaction::TakePageOut { address },
                None => Reaction::Log(Why::NoAddress),
            }
        }
        (_, Severity::Corrected) => Reaction::Log(Why::Corrected),
        (_, Severity::Informational) => Reaction::Log(Why::Informational),
        (Ok(Section::Memory2(_)), _) => Reaction::Log(Why::SecondForm),
        (Ok(Section::Memory(_) | Section::ShortMemory(_) | Section::Arm(_)), _) => {
            Reaction::Log(Why::Severity)
        }
        _ => Reaction::Log(Why::Type),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use zerocopy::IntoBytes;

    use super::*;
    use crate::guid::{Guid, section_type};
    use crate::section::memory::{MemoryError, MemoryError2};
    use crate::status::{DataEntryHeader, StatusBlock, StatusBlockBuilder};
    use crate::time::Timestamp;

    fn memory(validation: u64) -> Vec<u8> {
        let mut memory = MemoryError::default();
        memory.short.validation = validation.into();
        memory.short.physical_address = 0x7000.into();
        memory.as_bytes().to_vec()
    }

    fn reacts(
        block: Severity,
        severity: Severity,
        flags: u8,
        kind: Guid,
        section: &[u8],
    ) -> Reaction {
        let header = DataEntryHeader {
            section_type: kind,
            severity: u32::from(severity).into(),
            flags,
            ..DataEntryHeader::default()
        };
        let bytes = StatusBlockBuilder::new(block)
            .entry(header, Timestamp::default(), section)
            .build()
            .unwrap();
        let block = StatusBlock::read(&bytes).unwrap();
        let entry = block.entries().next().unwrap().unwrap();
        reaction(block.header().severity(), &entry)
    }

    #[test]
    fn only_the_first_memory_section_with_an_address_takes_a_page_out() {
        use Severity::Recoverable;
        let first = |validation| {
            reacts(
                Recoverable,
                Recoverable,
                0,
                section_type::MEMORY,
                &memory(validation),
            )
        };
        assert_eq!(first(2), Reaction::TakePageOut { address: 0x7000 });
        assert_eq!(first(0), Reaction::Log(Why::NoAddress));
        let second = MemoryError2::default();
        assert_eq!(
            reacts(
                Recoverable,
                Recoverable,
                0,
                section_type::MEMORY_2,
                second.as_bytes()
            ),
            Reaction::Log(Why::SecondForm)
        );
    }

    #[test]
    fn a_corrected_error_retires_the_page_only_over_the_threshold() {
        use Severity::Corrected;
        let corrected = |flags| {
            reacts(
                Corrected,
                Corrected,
                flags,
                section_type::MEMORY,
                &memory(2),
            )
        };
        assert_eq!(corrected(0), Reaction::Log(Why::Corrected));
        assert_eq!(corrected(8), Reaction::RetirePage { address: 0x7000 });
    }

    #[test]
    fn severities_that_disagree_take_no_page_out() {
        use Severity::{Corrected, Fatal, Recoverable};
        for (block, entry) in [(Recoverable, Fatal), (Corrected, Recoverable)] {
            let reaction = reacts(block, entry, 0, section_type::MEMORY, &memory(2));
            assert_eq!(reaction, Reaction::Log(Why::Severity));
        }
    }

    #[test]
    fn a_fatal_block_is_a_panic_whatever_is_in_it() {
        let fatal = reacts(
            Severity::Fatal,
            Severity::Corrected,
            0,
            section_type::PCIE,
            &[],
        );
        assert_eq!(fatal, Reaction::Panic);
    }
}
