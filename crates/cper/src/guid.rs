//! GUIDs, which name everything here, and what the known ones name.

use core::fmt;
use core::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A GUID as it lies in memory: the first three groups little-endian, the rest as written
/// (UEFI 2.10, appendix A).
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
#[repr(transparent)]
pub struct Guid([u8; 16]);

/// Text that is no GUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a GUID is 32 hexadecimal digits in groups of 8, 4, 4, 4 and 12")]
pub struct ParseGuidError;

impl Guid {
    /// The GUID whose text is these groups; the last two groups are the eight bytes.
    pub const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5],
            d[6], d[7],
        ])
    }

    /// The bytes as they lie in memory.
    pub const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Text shows the first three groups from the high end.
        const TEXT_ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
        for (place, byte) in TEXT_ORDER.into_iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[byte])?;
        }
        Ok(())
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

impl FromStr for Guid {
    type Err = ParseGuidError;

    fn from_str(text: &str) -> Result<Self, ParseGuidError> {
        let mut groups = text.split('-');
        let mut group = |digits: usize| {
            let text = groups.next().filter(|text| {
                text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
            })?;
            u64::from_str_radix(text, 16).ok()
        };
        let mut parse = || {
            let (a, b, c) = (group(8)?, group(4)?, group(4)?);
            let last = (group(4)? << 48) | group(12)?;
            Some(Self::new(
                u32::try_from(a).ok()?,
                u16::try_from(b).ok()?,
                u16::try_from(c).ok()?,
                last.to_be_bytes(),
            ))
        };
        let guid = parse().ok_or(ParseGuidError)?;
        groups
            .next()
            .is_none()
            .then_some(guid)
            .ok_or(ParseGuidError)
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $table:ident { $($(#[$one_doc:meta])* $name:ident = $guid:expr => $text:literal;)* }) => {
        $($(#[$one_doc])* pub const $name: Guid = $guid;)*

        $(#[$doc])*
        pub const $table: &[(Guid, &str)] = &[$(($name, $text)),*];
    };
}

/// Types of error sections (UEFI 2.10, N.2.2 Section Descriptor, "Section Type").
pub mod section_type {
    use super::Guid;

    names! {
        /// Every type known by name; the names are those of libcper, which are the field's.
        NAMES {
            /// Memory error, which Linux acts on.
            MEMORY = Guid::new(0xa5bc_1114, 0x6f64, 0x4ede, [0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c, 0x83, 0xb1]) => "Platform Memory";
            /// Memory error 2, which Linux only prints.
            MEMORY_2 = Guid::new(0x61ec_04fc, 0x48e6, 0xd813, [0x25, 0xc9, 0x8d, 0xaa, 0x44, 0x75, 0x0b, 0x12]) => "Platform Memory 2";
            /// ARM processor error.
            ARM = Guid::new(0xe19e_3d16, 0xbc11, 0x11e4, [0x9c, 0xaa, 0xc2, 0x05, 0x1d, 0x5d, 0x46, 0xb0]) => "ARM";
            /// IA32/X64 processor error.
            IA32_X64 = Guid::new(0xdc3e_a0b0, 0xa144, 0x4797, [0xb9, 0x5b, 0x53, 0xfa, 0x24, 0x2b, 0x6e, 0x1d]) => "IA32/X64";
            /// Processor error of any architecture.
            PROCESSOR_GENERIC = Guid::new(0x9876_ccad, 0x47b4, 0x4bdb, [0xb6, 0x5e, 0x16, 0xf1, 0x93, 0xc4, 0xf3, 0xdb]) => "Processor Generic";
            /// Itanium processor error.
            IPF = Guid::new(0xe429_faf1, 0x3cb7, 0x11d4, [0xbc, 0xa7, 0x00, 0x80, 0xc7, 0x3c, 0x88, 0x81]) => "IPF";
            /// PCI Express error.
            PCIE = Guid::new(0xd995_e954, 0xbbc1, 0x430f, [0xad, 0x91, 0xb4, 0x4d, 0xcb, 0x3c, 0x6f, 0x35]) => "PCIe";
            /// Reference to a record of the firmware's own.
            FIRMWARE = Guid::new(0x8121_2a96, 0x09ed, 0x4996, [0x94, 0x71, 0x8d, 0x72, 0x9c, 0x8e, 0x69, 0xed]) => "Firmware Error Record Reference";
            /// PCI or PCI-X bus error.
            PCI_BUS = Guid::new(0xc575_3963, 0x3b84, 0x4095, [0xbf, 0x78, 0xed, 0xda, 0xd3, 0xf9, 0xc9, 0xdd]) => "PCI/PCI-X Bus";
            /// PCI component error.
            PCI_COMPONENT = Guid::new(0xeb5e_4685, 0xca66, 0x4769, [0xb6, 0xa2, 0x26, 0x06, 0x8b, 0x00, 0x13, 0x26]) => "PCI Component/Device";
            /// DMA remapping error.
            DMAR_GENERIC = Guid::new(0x5b51_fef7, 0xc79d, 0x4434, [0x8f, 0x1b, 0xaa, 0x62, 0xde, 0x3e, 0x2c, 0x64]) => "DMAr Generic";
            /// DMA remapping error, Intel VT-d.
            DMAR_VTD = Guid::new(0x7176_1d37, 0x32b2, 0x45cd, [0xa7, 0xd0, 0xb0, 0xfe, 0xdd, 0x93, 0xe8, 0xcf]) => "Intel VT for Directed I/O Specific DMAr";
            /// DMA remapping error, AMD IOMMU.
            DMAR_IOMMU = Guid::new(0x036f_84e1, 0x7f37, 0x428c, [0xa7, 0x9e, 0x57, 0x5f, 0xdf, 0xaa, 0x84, 0xec]) => "IOMMU Specific DMAr";
            /// CCIX protocol error.
            CCIX_PER = Guid::new(0x9133_5ef6, 0xebfb, 0x4478, [0xa6, 0xa6, 0x88, 0xb7, 0x28, 0xcf, 0x75, 0xd7]) => "CCIX PER Log Error";
            /// CXL protocol error.
            CXL_PROTOCOL = Guid::new(0x80b9_efb4, 0x52b5, 0x4de3, [0xa7, 0x77, 0x68, 0x78, 0x4b, 0x77, 0x10, 0x48]) => "CXL Protocol Error";
            /// CXL event: general media.
            CXL_GENERAL_MEDIA = Guid::new(0xfbcd_0a77, 0xc260, 0x417f, [0x85, 0xa9, 0x08, 0x8b, 0x16, 0x21, 0xeb, 0xa6]) => "CXL General Media Component Error";
            /// CXL event: DRAM.
            CXL_DRAM = Guid::new(0x601d_cbb3, 0x9c06, 0x4eab, [0xb8, 0xaf, 0x4e, 0x9b, 0xfb, 0x5c, 0x96, 0x24]) => "CXL DRAM Component Error";
            /// CXL event: memory module.
            CXL_MEMORY_MODULE = Guid::new(0xfe92_7475, 0xdd59, 0x4339, [0xa5, 0x86, 0x79, 0xba, 0xb1, 0x13, 0xb7, 0x74]) => "CXL Memory Module Component Error";
        }
    }

    /// The name of a section type, where it is known.
    pub fn name(guid: Guid) -> Option<&'static str> {
        super::lookup(NAMES, guid)
    }
}

/// How the operating system learns of a record (UEFI 2.10, N.2.1.1 Notification Type).
pub mod notification_type {
    use super::Guid;

    names! {
        /// Every type known by name.
        NAMES {
            /// Corrected machine check.
            CMC = Guid::new(0x2dce_8bb1, 0xbdd7, 0x450e, [0xb9, 0xad, 0x9c, 0xf4, 0xeb, 0xd4, 0xf8, 0x90]) => "CMC";
            /// Corrected platform error.
            CPE = Guid::new(0x4e29_2f96, 0xd843, 0x4a55, [0xa8, 0xc2, 0xd4, 0x81, 0xf2, 0x7e, 0xbe, 0xee]) => "CPE";
            /// Machine check exception.
            MCE = Guid::new(0xe8f5_6ffe, 0x919c, 0x4cc5, [0xba, 0x88, 0x65, 0xab, 0xe1, 0x49, 0x13, 0xbb]) => "MCE";
            /// PCI Express error.
            PCIE = Guid::new(0xcf93_c01f, 0x1a16, 0x4dfc, [0xb8, 0xbc, 0x9c, 0x4d, 0xaf, 0x67, 0xc1, 0x04]) => "PCIe";
            /// INIT record (Itanium).
            INIT = Guid::new(0xcc52_63e8, 0x9308, 0x454a, [0x89, 0xd0, 0x34, 0x0b, 0xd3, 0x9b, 0xc9, 0x8e]) => "INIT";
            /// Non-maskable interrupt.
            NMI = Guid::new(0x5bad_89ff, 0xb7e6, 0x42c9, [0x81, 0x4a, 0xcf, 0x24, 0x85, 0xd6, 0xe9, 0x8a]) => "NMI";
            /// Boot error record.
            BOOT = Guid::new(0x3d61_a466, 0xab40, 0x409a, [0xa6, 0x98, 0xf3, 0x62, 0xd4, 0x64, 0xb3, 0x8f]) => "Boot";
            /// DMA remapping error.
            DMAR = Guid::new(0x667d_d791, 0xc6b3, 0x4c27, [0x8a, 0x6b, 0x0f, 0x8e, 0x72, 0x2d, 0xeb, 0x41]) => "DMAr";
            /// Synchronous external abort (arm64).
            SEA = Guid::new(0x9a78_788a, 0xbbe8, 0x11e4, [0x80, 0x9e, 0x67, 0x61, 0x1e, 0x5d, 0x46, 0xb0]) => "SEA";
            /// SError interrupt (arm64).
            SEI = Guid::new(0x5c28_4c81, 0xb0ae, 0x4e87, [0xa3, 0x22, 0xb0, 0x4c, 0x85, 0x62, 0x43, 0x23]) => "SEI";
            /// Platform error interrupt (arm64).
            PEI = Guid::new(0x09a9_d5ac, 0x5204, 0x4214, [0x96, 0xe5, 0x94, 0x99, 0x2e, 0x75, 0x2b, 0xcd]) => "PEI";
            /// CXL component.
            CXL = Guid::new(0x6929_3bc9, 0x41df, 0x49a3, [0xb4, 0xbd, 0x4f, 0xb0, 0xdb, 0x30, 0x41, 0xf6]) => "CXL Component";
        }
    }

    /// The name of a notification type, where it is known.
    pub fn name(guid: Guid) -> Option<&'static str> {
        super::lookup(NAMES, guid)
    }
}

fn lookup(names: &[(Guid, &'static str)], guid: Guid) -> Option<&'static str> {
    let found = names.iter().find(|(known, _)| *known == guid);
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn the_memory_sections_bytes_are_those_that_linux_compares() {
        let bytes = [
            0x14, 0x11, 0xbc, 0xa5, 0x64, 0x6f, 0xde, 0x4e, 0xb8, 0x63, 0x3e, 0x83, 0xed, 0x7c,
            0x83, 0xb1,
        ];
        assert_eq!(section_type::MEMORY.bytes(), &bytes);
    }

    #[test]
    fn text_and_bytes_are_two_forms_of_one_guid() {
        for (guid, _) in section_type::NAMES.iter().chain(notification_type::NAMES) {
            assert_eq!(guid.to_string().parse(), Ok(*guid));
        }
        assert_eq!(
            section_type::MEMORY.to_string(),
            "a5bc1114-6f64-4ede-b863-3e83ed7c83b1"
        );
    }

    #[test]
    fn text_that_is_no_guid_is_refused() {
        for text in [
            "",
            "a5bc1114",
            "a5bc1114-6f64-4ede-b863-3e83ed7c83b1-",
            "a5bc1114-6f64-4ede-b863-3e83ed7c83b",
            "+5bc1114-6f64-4ede-b863-3e83ed7c83b1",
            "a5bc1114-6f64-4ede-b863-3e83ed7c83bg",
        ] {
            assert_eq!(text.parse::<Guid>(), Err(ParseGuidError), "{text}");
        }
    }
}
