//! The lines of one data entry, made a section again.

use alloc::string::String;
use alloc::vec::Vec;

use zerocopy::IntoBytes;

use crate::guid::{Guid, section_type};
use crate::section::arm::{ArmErrorInfo, ArmHeader};
use crate::section::memory::MemoryError;
use crate::severity::Severity;
use crate::status::{DataEntryHeader, StatusBlockBuilder};
use crate::time::Timestamp;

/// What the kernel calls the sections that it knows.
const KINDS: [(&str, Guid); 7] = [
    ("memory error", section_type::MEMORY),
    ("ARM processor error", section_type::ARM),
    ("IA32/X64 processor error", section_type::IA32_X64),
    ("general processor error", section_type::PROCESSOR_GENERIC),
    ("PCIe error", section_type::PCIE),
    ("Firmware Error Record Reference", section_type::FIRMWARE),
    ("CXL Protocol Error", section_type::CXL_PROTOCOL),
];

/// An entry being read.
pub(super) struct EntryText {
    pub(super) severity: Severity,
    timestamp: Option<Timestamp>,
    fru_id: Option<Guid>,
    fru_text: Option<String>,
    kind: Guid,
    section: Built,
    lines: Vec<String>,
}

/// As much of a section as its lines told.
enum Built {
    Nothing,
    Memory(MemoryError),
    Arm(ArmHeader, Vec<ArmErrorInfo>),
    Dump(Vec<u8>),
}

impl EntryText {
    pub(super) fn new(severity: Severity, timestamp: Option<Timestamp>) -> Self {
        Self {
            severity,
            timestamp,
            fru_id: None,
            fru_text: None,
            kind: Guid::default(),
            section: Built::Nothing,
            lines: Vec::new(),
        }
    }

    /// Takes the next line of the entry.
    pub(super) fn line(&mut self, text: &str) {
        let text = text.trim();
        let (name, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.trim();
        match name {
            "section_type" => self.known(value),
            "section type" => self.unknown(value),
            "fru_id" => self.fru_id = value.parse().ok(),
            "fru_text" => self.fru_text = Some(value.into()),
            _ => {
                let told = match &mut self.section {
                    Built::Memory(memory) => memory_line(memory, name, value, text),
                    Built::Arm(header, infos) => arm_line(header, infos, name, value),
                    Built::Dump(bytes) => dump_line(bytes, name, value),
                    Built::Nothing => false,
                };
                if !told {
                    self.lines.push(text.into());
                }
            }
        }
    }

    fn known(&mut self, name: &str) {
        let kind = KINDS.iter().find(|(known, _)| *known == name);
        self.kind = kind.map(|(_, guid)| *guid).unwrap_or_default();
        self.section = match self.kind {
            section_type::MEMORY => Built::Memory(MemoryError::default()),
            section_type::ARM => {
                // The kernel prints the PSCI state only with the running state: until then there is none.
                let header = ArmHeader {
                    running_state: (1 << 31).into(),
                    ..ArmHeader::default()
                };
                Built::Arm(header, Vec::new())
            }
            _ => Built::Nothing,
        };
    }

    /// `unknown, GUID`: its bytes follow.
    fn unknown(&mut self, value: &str) {
        let guid = value.rsplit(' ').next().and_then(|guid| guid.parse().ok());
        self.kind = guid.unwrap_or_default();
        self.section = Built::Dump(Vec::new());
    }

    /// Adds the entry to a block, and gives the lines that are not told by it.
    pub(super) fn add_to(self, block: &mut StatusBlockBuilder) -> Vec<String> {
        let bytes = match self.section {
            Built::Nothing => Vec::new(),
            Built::Memory(memory) => memory.as_bytes().to_vec(),
            Built::Arm(header, infos) => arm_bytes(header, &infos),
            Built::Dump(bytes) => bytes,
        };
        let mut header = DataEntryHeader {
            section_type: self.kind,
            severity: u32::from(self.severity).into(),
            revision: 0x300.into(),
            ..DataEntryHeader::default()
        };
        if let Some(id) = self.fru_id {
            header.fru_id = id;
            header.validation |= 1;
        }
        if let Some(text) = self.fru_text {
            let length = text.len().min(header.fru_text.len());
            header.fru_text[..length].copy_from_slice(&text.as_bytes()[..length]);
            header.validation |= 2;
        }
        header.validation |= u8::from(self.timestamp.is_some()) << 2;
        block.entry(header, self.timestamp.unwrap_or_default(), &bytes);
        self.lines
    }
}

/// A number as the kernel prints it, with or without `0x`; what follows it does not matter.
fn number(text: &str) -> Option<u64> {
    let word = text.split([' ', ',', ')']).next()?;
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

fn memory_line(memory: &mut MemoryError, name: &str, value: &str, text: &str) -> bool {
    let mut valid = memory.short.validation.get();
    let told = match name {
        // Older kernels print the number alone, newer ones put it in brackets behind its meaning.
        "error_status" => {
            let digits = value.rsplit('(').next().unwrap_or(value);
            number(digits).map(|status| (0, memory.short.error_status = status.into()))
        }
        "physical_address" => {
            number(value).map(|address| (1, memory.short.physical_address = address.into()))
        }
        "physical_address_mask" => {
            number(value).map(|mask| (2, memory.short.physical_address_mask = mask.into()))
        }
        "error_type" => number(value)
            .and_then(|kind| u8::try_from(kind).ok())
            .map(|kind| (14, memory.short.error_type = kind)),
        "DIMM location" => value.rsplit_once("DMI handle: ").and_then(|(_, handle)| {
            let handle = u16::try_from(number(handle)?).ok()?;
            Some((17, memory.module_handle = handle.into()))
        }),
        _ => return location(memory, text),
    };
    let Some((bit, ())) = told else {
        return false;
    };
    valid |= 1 << bit;
    memory.short.validation = valid.into();
    true
}

/// `node:0 card:1 module:2 …`, in older kernels with a space after each colon.
fn location(memory: &mut MemoryError, text: &str) -> bool {
    let mut words = text.split([' ', ':']).filter(|word| !word.is_empty());
    let mut told = false;
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        let Some(value) = number(value) else {
            return told;
        };
        let Some(bit) = set_location(memory, name, value) else {
            return told;
        };
        memory.short.validation |= zerocopy::little_endian::U64::new(1 << bit);
        told = true;
    }
    told
}

/// Sets one part of the location, and gives the bit that says that it is valid.
fn set_location(memory: &mut MemoryError, name: &str, value: u64) -> Option<u32> {
    let small = u16::try_from(value).ok();
    let short = &mut memory.short;
    let bit = match name {
        "node" => (3, short.node = small?.into()),
        "card" => (4, short.card = small?.into()),
        "module" => (5, short.module = small?.into()),
        "rank" => (15, memory.rank = small?.into()),
        "bank" => (6, short.bank = small?.into()),
        "bank_group" => {
            let group = u16::from(u8::try_from(value).ok()?);
            (
                19,
                short.bank = (short.bank.get() & 0xff | group << 8).into(),
            )
        }
        "bank_address" => {
            let address = u16::from(u8::try_from(value).ok()?);
            (
                20,
                short.bank = (short.bank.get() & 0xff00 | address).into(),
            )
        }
        "device" => (7, short.device = small?.into()),
        "row" => {
            let high = u8::try_from(value >> 16).ok().filter(|high| *high < 4)?;
            memory.extended = memory.extended & !3 | high;
            if high != 0 {
                short.validation |= zerocopy::little_endian::U64::new(1 << 18);
            }
            // The mask leaves 16 bits.
            (8, short.row = ((value & 0xffff) as u16).into())
        }
        "column" => (9, short.column = small?.into()),
        "bit_position" => (10, short.bit_position = small?.into()),
        "requestor_id" => (11, short.requestor_id = value.into()),
        "responder_id" => (12, short.responder_id = value.into()),
        "target_id" => (13, short.target_id = value.into()),
        "chip_id" => {
            let chip = u8::try_from(value).ok().filter(|chip| *chip < 8)?;
            (21, memory.extended = memory.extended & 0x1f | chip << 5)
        }
        _ => return None,
    };
    Some(bit.0)
}

fn arm_line(
    header: &mut ArmHeader,
    infos: &mut Vec<ArmErrorInfo>,
    name: &str,
    value: &str,
) -> bool {
    if name.starts_with("Error info structure") {
        infos.push(ArmErrorInfo {
            length: size_of::<ArmErrorInfo>() as u8,
            ..ArmErrorInfo::default()
        });
        return true;
    }
    let Some(number) = number(value) else {
        return false;
    };
    let validation = header.validation.get();
    match name {
        "MIDR" => header.midr = number.into(),
        "Multiprocessor Affinity Register (MPIDR)" => {
            header.mpidr = number.into();
            header.validation = (validation | 1).into();
        }
        "error affinity level" => {
            header.affinity_level = number as u8;
            header.validation = (validation | 2).into();
        }
        "running state" => {
            header.running_state = (number as u32).into();
            header.validation = (validation | 4).into();
        }
        "Power State Coordination Interface state" => header.psci_state = (number as u32).into(),
        _ => {
            let info = infos.last_mut();
            return info.is_some_and(|info| info_line(info, name, number));
        }
    }
    true
}

fn info_line(info: &mut ArmErrorInfo, name: &str, number: u64) -> bool {
    let bit = match name {
        // The kernel prints one more than the field.
        "num errors" => (
            0,
            info.multiple_error = (number.saturating_sub(1) as u16).into(),
        ),
        "error_type" => {
            info.error_type = number as u8;
            return true;
        }
        "error_info" => (2, info.error_information = number.into()),
        "virtual fault address" => (3, info.virtual_address = number.into()),
        "physical fault address" => (4, info.physical_address = number.into()),
        _ => return false,
    };
    info.validation = (info.validation.get() | 1 << bit.0).into();
    true
}

fn arm_bytes(mut header: ArmHeader, infos: &[ArmErrorInfo]) -> Vec<u8> {
    // A log has far fewer than 65536 lines of one entry; what is above has no place in a section.
    let infos = &infos[..infos.len().min(usize::from(u16::MAX))];
    let length = size_of::<ArmHeader>() + size_of_val(infos);
    header.info_count = (infos.len() as u16).into();
    header.section_length = (length as u32).into();
    [header.as_bytes(), infos.as_bytes()].concat()
}

/// `00000010: 000e0000 00000000 00000005 00000000  …`: words of four bytes, little-endian.
fn dump_line(bytes: &mut Vec<u8>, name: &str, value: &str) -> bool {
    if name == "section length" {
        return true;
    }
    let offset = usize::from_str_radix(name, 16).ok();
    if name.len() != 8 || offset != Some(bytes.len()) {
        return false;
    }
    // Two spaces end the words; what follows is the same as text.
    let words = value.split("  ").next().unwrap_or_default();
    for word in words.split(' ') {
        let Ok(word) = u32::from_str_radix(word, 16) else {
            break;
        };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    true
}
