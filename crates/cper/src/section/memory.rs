//! Memory errors: which address, which DIMM, and what kind of error (UEFI 2.10, N.2.5 and N.2.6).

use core::ops::Deref;

use zerocopy::little_endian::{U16, U32, U64};

use crate::section::memory_status::ErrorStatus;
use crate::wire::{when_valid, wire};

/// Types of memory errors, by number (UEFI 2.10, N.2.5 Memory Error Type).
pub const ERROR_TYPES: [&str; 16] = [
    "Unknown",
    "No Error",
    "Single-bit ECC",
    "Multi-bit ECC",
    "Single-symbol ChipKill ECC",
    "Multi-symbol ChipKill ECC",
    "Master Abort",
    "Target Abort",
    "Parity Error",
    "Watchdog Timeout",
    "Invalid Address",
    "Mirror Broken",
    "Memory Sparing",
    "Scrub Corrected Error",
    "Scrub Uncorrected Error",
    "Physical Memory Map-out Event",
];

/// The name of a type of memory error; `None` where the number is reserved.
pub fn error_type_name(error_type: u8) -> Option<&'static str> {
    ERROR_TYPES.get(usize::from(error_type)).copied()
}

/// The bank, which memory reports in one of two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bank {
    /// One number.
    Whole(u16),
    /// A bank group (DDR4 and later) and a bank in it; `None` where one of them is not said.
    Grouped {
        /// The group.
        group: Option<u8>,
        /// The bank in it.
        address: Option<u8>,
    },
}

wire! {
    /// A memory error section as UEFI 2.1 and 2.2 have it, and the start of the present one.
    pub struct ShortMemoryError: 73 {
        /// Which fields mean something, from bit 0: error status, physical address, its mask, node,
        /// card, module, bank, device, row, column, bit position, requestor, responder, target,
        /// error type, rank, card handle, module handle, extended row, bank group, bank address,
        /// chip.
        pub validation: U64,
        /// See [`ErrorStatus`].
        pub error_status: U64,
        /// The address that failed, in bytes.
        pub physical_address: U64,
        /// Bits of the address that are exact: ones. Bits that were not captured: zeroes.
        pub physical_address_mask: U64,
        /// In a system of several nodes, which.
        pub node: U16,
        /// The memory board.
        pub card: U16,
        /// The module (DIMM) on it.
        pub module: U16,
        /// The bank; a group in bits 15:8 where bits 19 and 20 are valid instead of bit 6.
        pub bank: U16,
        /// The DRAM device.
        pub device: U16,
        /// Bits 15:0 of the row.
        pub row: U16,
        /// The column.
        pub column: U16,
        /// The bit within the word.
        pub bit_position: U16,
        /// Who asked for the memory, in the platform's own numbers.
        pub requestor_id: U64,
        /// Who answered.
        pub responder_id: U64,
        /// Who was asked.
        pub target_id: U64,
        /// One of the [`ERROR_TYPES`].
        pub error_type: u8,
    }
}

wire! {
    /// A memory error section. Linux takes the page that it names out of use: this section is the
    /// one that a guest acts on (drivers/acpi/apei/ghes.c, `ghes_handle_memory_failure`).
    pub struct MemoryError: 80 {
        /// What both forms have.
        pub short: ShortMemoryError,
        /// Bits 1:0: bits 17:16 of the row; bits 7:5: the chip in a stack.
        pub extended: u8,
        /// The rank.
        pub rank: U16,
        /// SMBIOS handle of the memory board (type 16).
        pub card_handle: U16,
        /// SMBIOS handle of the module (type 17): `dmidecode -t 17` names its slot.
        pub module_handle: U16,
    }
}

wire! {
    /// A memory error section 2, for memory with more of everything. Linux prints it and does nothing.
    pub struct MemoryError2: 96 {
        /// Which fields mean something, from bit 0: error status, physical address, its mask, node,
        /// card, module, bank, device, row, column, rank, bit position, chip, error type, status,
        /// requestor, responder, target, card handle, module handle, bank group, bank address.
        pub validation: U64,
        /// See [`ErrorStatus`].
        pub error_status: U64,
        /// The address that failed, in bytes.
        pub physical_address: U64,
        /// Bits of the address that are exact: ones. Bits that were not captured: zeroes.
        pub physical_address_mask: U64,
        /// In a system of several nodes, which.
        pub node: U16,
        /// The memory board.
        pub card: U16,
        /// The module (DIMM) on it.
        pub module: U16,
        /// The bank; a group in bits 15:8 where bits 20 and 21 are valid instead of bit 6.
        pub bank: U16,
        /// The DRAM device.
        pub device: U32,
        /// The row.
        pub row: U32,
        /// The column.
        pub column: U32,
        /// The rank.
        pub rank: U32,
        /// The bit within the word.
        pub bit_position: U32,
        /// The chip in a stack.
        pub chip_id: u8,
        /// One of the [`ERROR_TYPES`].
        pub error_type: u8,
        /// Bit 0: uncorrected.
        pub status: u8,
        /// Zero.
        pub reserved: u8,
        /// Who asked for the memory, in the platform's own numbers.
        pub requestor_id: U64,
        /// Who answered.
        pub responder_id: U64,
        /// Who was asked.
        pub target_id: U64,
        /// SMBIOS handle of the memory board (type 16).
        pub card_handle: U32,
        /// SMBIOS handle of the module (type 17): `dmidecode -t 17` names its slot.
        pub module_handle: U32,
    }
}

impl ShortMemoryError {
    when_valid! {
        /// What kind of error it was.
        error_status: ErrorStatus = 0 => |this| ErrorStatus(this.error_status.get());
        /// The address that failed, in bytes.
        physical_address: u64 = 1 => |this| this.physical_address.get();
        /// Bits of the address that are exact.
        physical_address_mask: u64 = 2 => |this| this.physical_address_mask.get();
        /// The node.
        node: u16 = 3 => |this| this.node.get();
        /// The memory board.
        card: u16 = 4 => |this| this.card.get();
        /// The module (DIMM).
        module: u16 = 5 => |this| this.module.get();
        /// The DRAM device.
        device: u16 = 7 => |this| this.device.get();
        /// The column.
        column: u16 = 9 => |this| this.column.get();
        /// The bit within the word.
        bit_position: u16 = 10 => |this| this.bit_position.get();
        /// The type of the error: one of the [`ERROR_TYPES`].
        error_type: u8 = 14 => |this| this.error_type;
    }

    /// The bank; `None` where it is not said.
    pub fn bank(&self) -> Option<Bank> {
        bank(self.validation.get(), self.bank.get(), 19, 20)
    }

    /// Bits 15:0 of the row; `None` where it is not said.
    pub fn row(&self) -> Option<u32> {
        (self.validation.get() >> 8 & 1 != 0).then(|| self.row.get().into())
    }
}

impl MemoryError {
    /// The row, with the bits above the sixteenth where they are said; `None` where it is not.
    pub fn row(&self) -> Option<u32> {
        let valid = self.validation.get();
        let high = match valid >> 18 & 1 {
            0 => 0,
            _ => u32::from(self.extended & 3) << 16,
        };
        (valid & (1 << 8 | 1 << 18) != 0).then(|| u32::from(self.short.row.get()) | high)
    }

    /// The rank; `None` where it is not said.
    pub fn rank(&self) -> Option<u16> {
        self.valid(15).then(|| self.rank.get())
    }

    /// SMBIOS handle of the memory board; `None` where it is not said.
    pub fn card_handle(&self) -> Option<u16> {
        self.valid(16).then(|| self.card_handle.get())
    }

    /// SMBIOS handle of the module; `None` where it is not said.
    pub fn module_handle(&self) -> Option<u16> {
        self.valid(17).then(|| self.module_handle.get())
    }

    /// The chip in a stack; `None` where it is not said.
    pub fn chip_id(&self) -> Option<u8> {
        self.valid(21).then_some(self.extended >> 5)
    }

    fn valid(&self, bit: u32) -> bool {
        self.validation.get() >> bit & 1 != 0
    }
}

impl Deref for MemoryError {
    type Target = ShortMemoryError;

    fn deref(&self) -> &ShortMemoryError {
        &self.short
    }
}

impl MemoryError2 {
    when_valid! {
        /// What kind of error it was.
        error_status: ErrorStatus = 0 => |this| ErrorStatus(this.error_status.get());
        /// The address that failed, in bytes.
        physical_address: u64 = 1 => |this| this.physical_address.get();
        /// Bits of the address that are exact.
        physical_address_mask: u64 = 2 => |this| this.physical_address_mask.get();
        /// The node.
        node: u16 = 3 => |this| this.node.get();
        /// The memory board.
        card: u16 = 4 => |this| this.card.get();
        /// The module (DIMM).
        module: u16 = 5 => |this| this.module.get();
        /// The DRAM device.
        device: u32 = 7 => |this| this.device.get();
        /// The row.
        row: u32 = 8 => |this| this.row.get();
        /// The column.
        column: u32 = 9 => |this| this.column.get();
        /// The rank.
        rank: u32 = 10 => |this| this.rank.get();
        /// The bit within the word.
        bit_position: u32 = 11 => |this| this.bit_position.get();
        /// The chip in a stack.
        chip_id: u8 = 12 => |this| this.chip_id;
        /// The type of the error: one of the [`ERROR_TYPES`].
        error_type: u8 = 13 => |this| this.error_type;
        /// Whether the error is uncorrected.
        is_uncorrected: bool = 14 => |this| this.status & 1 != 0;
        /// SMBIOS handle of the memory board.
        card_handle: u32 = 18 => |this| this.card_handle.get();
        /// SMBIOS handle of the module.
        module_handle: u32 = 19 => |this| this.module_handle.get();
    }

    /// The bank; `None` where it is not said.
    pub fn bank(&self) -> Option<Bank> {
        bank(self.validation.get(), self.bank.get(), 20, 21)
    }
}

fn bank(validation: u64, bank: u16, group_bit: u32, address_bit: u32) -> Option<Bank> {
    if validation >> 6 & 1 != 0 {
        return Some(Bank::Whole(bank));
    }
    let [address, group] = bank.to_le_bytes();
    let group = (validation >> group_bit & 1 != 0).then_some(group);
    let address = (validation >> address_bit & 1 != 0).then_some(address);
    (group.is_some() || address.is_some()).then_some(Bank::Grouped { group, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_the_error_has_another_validation_bit_in_each_section() {
        let mut first = MemoryError::default();
        first.short.error_type = 14;
        first.short.validation = (1 << 13).into();
        assert_eq!(first.error_type(), None);
        first.short.validation = (1 << 14).into();
        assert_eq!(first.error_type(), Some(14));

        let mut second = MemoryError2 {
            error_type: 14,
            validation: (1 << 14).into(),
            ..MemoryError2::default()
        };
        assert_eq!(second.error_type(), None);
        second.validation = (1 << 13).into();
        assert_eq!(second.error_type(), Some(14));
    }

    #[test]
    fn the_rows_high_bits_count_only_where_they_are_said() {
        let mut memory = MemoryError {
            extended: 0b0110_0011,
            ..MemoryError::default()
        };
        memory.short.row = 7.into();
        assert_eq!(memory.row(), None);
        memory.short.validation = (1 << 8).into();
        assert_eq!(memory.row(), Some(7));
        memory.short.validation = (1 << 8 | 1 << 18 | 1 << 21).into();
        assert_eq!(memory.row(), Some(0x3_0007));
        assert_eq!(memory.chip_id(), Some(3));
    }

    #[test]
    fn a_bank_is_whole_or_a_group_and_an_address() {
        let mut memory = MemoryError::default();
        memory.short.bank = 0x0203.into();
        assert_eq!(memory.bank(), None);
        memory.short.validation = (1 << 6).into();
        assert_eq!(memory.bank(), Some(Bank::Whole(0x203)));
        memory.short.validation = (1 << 19 | 1 << 20).into();
        let (group, address) = (Some(2), Some(3));
        assert_eq!(memory.bank(), Some(Bank::Grouped { group, address }));
    }
}
