//! Addresses of registers.

use core::fmt;

use zerocopy::little_endian::U64;

use crate::wire::wire;

wire! {
    /// Where a register is: a generic address structure (ACPI 6.5, 5.2.3.2).
    pub struct GenericAddress: 12 {
        /// 0: system memory, 1: system I/O, 2: PCI configuration space; more in the specification.
        pub space: u8,
        /// Bits in the register.
        pub bit_width: u8,
        /// The register's lowest bit at the address.
        pub bit_offset: u8,
        /// 0: any, 1 to 4: 8, 16, 32 or 64 bits in one access.
        pub access_size: u8,
        /// The address in its space, in bytes.
        pub address: U64,
    }
}

impl GenericAddress {
    /// 64 bits of system memory at a physical address, read and written in one access.
    pub fn memory(address: u64) -> Self {
        Self {
            space: 0,
            bit_width: 64,
            bit_offset: 0,
            access_size: 4,
            address: address.into(),
        }
    }
}

impl fmt::Display for GenericAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.space {
            0 => f.write_str("memory")?,
            1 => f.write_str("I/O port")?,
            2 => f.write_str("PCI configuration")?,
            other => write!(f, "address space {other}")?,
        }
        write!(f, " {:#x}, {} bits", self.address, self.bit_width)
    }
}
