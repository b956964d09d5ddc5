//! The status block that tells a guest that a page is lost: one whole type, because it has no variable
//! part, and a VMM writes it into guest memory while the guest waits.

use crate::guid::section_type;
use crate::section::memory::MemoryError;
use crate::severity::Severity;
use crate::status::{DataEntryHeader, StatusHeader};
use crate::time::Timestamp;
use crate::wire::wire;

wire! {
    /// A status block with one recoverable memory error of one address. Linux takes the page of 4 KiB
    /// around it out of use and signals who depends on it; QEMU writes the same
    /// (hw/acpi/ghes.c, `acpi_ghes_memory_errors`). A larger page is several of these: what kernels
    /// make of a wide address mask is not to be relied on.
    pub struct LostPage: 172 {
        /// One uncorrected error.
        pub status: StatusHeader,
        /// Of revision 0x300.
        pub entry: DataEntryHeader,
        /// Not valid: the guest has its own clock.
        pub timestamp: Timestamp,
        /// The address, and nothing else.
        pub memory: MemoryError,
    }
}

impl LostPage {
    /// Tells that the page around the guest physical `address`, in bytes, is lost.
    pub fn new(address: u64) -> Self {
        let severity = u32::from(Severity::Recoverable);
        let mut page = Self {
            status: StatusHeader {
                block_status: (1 | 1 << 4).into(),
                data_length: (size_of::<Self>() as u32 - size_of::<StatusHeader>() as u32).into(),
                severity: severity.into(),
                ..StatusHeader::default()
            },
            entry: DataEntryHeader {
                section_type: section_type::MEMORY,
                severity: severity.into(),
                revision: 0x300.into(),
                data_length: (size_of::<MemoryError>() as u32).into(),
                ..DataEntryHeader::default()
            },
            ..Self::default()
        };
        // The address and the type of the error, which is that nothing is known of it.
        page.memory.short.validation = (1 << 1 | 1 << 14).into();
        page.memory.short.physical_address = address.into();
        page
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::linux::{Reaction, reaction};
    use crate::status::StatusBlock;

    #[test]
    fn linux_takes_the_lost_page_out_of_use() {
        let page = LostPage::new(0x4000_2000);
        let block = StatusBlock::read(page.as_bytes()).unwrap();
        block.check().unwrap();
        assert_eq!(block.len(), size_of::<LostPage>());
        let entry = block.entries().next().unwrap().unwrap();
        let expected = Reaction::TakePageOut {
            address: 0x4000_2000,
        };
        assert_eq!(reaction(block.header().severity(), &entry), expected);
    }
}
