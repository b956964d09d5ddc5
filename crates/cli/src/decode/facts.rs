//! What a section says, in words: what failed, where, how badly.

use pagemend_cper::bits::{BitField, Values};
use pagemend_cper::section::Section;
use pagemend_cper::section::arm::{ArmError, ErrorKind};
use pagemend_cper::section::memory::{
    Bank, MemoryError, MemoryError2, ShortMemoryError, error_type_name,
};
use pagemend_cper::section::memory_status::ErrorStatus;
use pagemend_cper::section::x86::X86Error;
use serde::Serialize;

/// One thing that is said.
#[derive(Debug, Serialize)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) text: String,
}

pub(super) fn fact(name: &'static str, text: impl Into<String>) -> Fact {
    let text = text.into();
    Fact { name, text }
}

/// What a section says.
pub(super) fn of(section: &Section<'_>) -> Vec<Fact> {
    match section {
        Section::Memory(memory) => {
            let mut facts = short(memory);
            add_place(&mut facts, place(memory));
            if let Some(handle) = memory.module_handle() {
                facts.push(dimm(handle.into()));
            }
            facts
        }
        Section::ShortMemory(memory) => {
            let mut facts = short(memory);
            add_place(&mut facts, short_place(memory, memory.row(), None));
            facts
        }
        Section::Memory2(memory) => second(memory),
        Section::Arm(arm) => arm_facts(arm),
        Section::X86(x86) => x86_facts(x86),
        Section::Unknown { bytes, .. } => {
            vec![fact(
                "Content",
                format!("{} bytes, not decoded", bytes.len()),
            )]
        }
        _ => Vec::new(),
    }
}

fn short(memory: &ShortMemoryError) -> Vec<Fact> {
    let mut facts = vec![what(memory.error_type(), memory.error_status())];
    add_address(
        &mut facts,
        memory.physical_address(),
        memory.physical_address_mask(),
    );
    facts
}

fn second(memory: &MemoryError2) -> Vec<Fact> {
    let mut facts = vec![what(memory.error_type(), memory.error_status())];
    if let Some(uncorrected) = memory.is_uncorrected() {
        facts.push(fact(
            "State",
            if uncorrected {
                "uncorrected"
            } else {
                "corrected"
            },
        ));
    }
    add_address(
        &mut facts,
        memory.physical_address(),
        memory.physical_address_mask(),
    );
    let mut words = Words::default();
    words.add("node", memory.node());
    words.add("card", memory.card());
    words.add("module", memory.module());
    words.add("rank", memory.rank());
    words.bank(memory.bank());
    words.add("device", memory.device());
    words.add("row", memory.row());
    words.add("column", memory.column());
    words.add("bit", memory.bit_position());
    words.add("chip", memory.chip_id());
    add_place(&mut facts, words);
    if let Some(handle) = memory.module_handle() {
        facts.push(dimm(handle));
    }
    facts
}

fn what(error_type: Option<u8>, status: Option<ErrorStatus>) -> Fact {
    let kind = match error_type.map(|number| (number, error_type_name(number))) {
        Some((_, Some(name))) => format!("{name} memory error"),
        Some((number, None)) => format!("memory error of the reserved type {number}"),
        None => "memory error of a kind that is not said".to_owned(),
    };
    let detail = status.and_then(ErrorStatus::meaning);
    fact(
        "What",
        match detail {
            Some(meaning) => format!("{kind}. {meaning}"),
            None => kind,
        },
    )
}

fn add_address(facts: &mut Vec<Fact>, address: Option<u64>, mask: Option<u64>) {
    let Some(address) = address else {
        facts.push(fact("Address", "not said: nothing can be taken out of use"));
        return;
    };
    let exact = match mask.map(u64::trailing_zeros) {
        Some(bits @ 1..=63) => format!(", known to {} bytes", 1_u64 << bits),
        _ => String::new(),
    };
    facts.push(fact("Address", format!("physical {address:#x}{exact}")));
}

/// Parts of a place, as far as they are known.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn add(&mut self, name: &str, value: Option<impl Into<u64>>) {
        self.0
            .extend(value.map(|value| format!("{name} {}", value.into())));
    }

    fn bank(&mut self, bank: Option<Bank>) {
        match bank {
            Some(Bank::Whole(bank)) => self.add("bank", Some(bank)),
            Some(Bank::Grouped { group, address }) => {
                self.add("bank group", group);
                self.add("bank", address);
            }
            None => {}
        }
    }
}

fn place(memory: &MemoryError) -> Words {
    let mut words = short_place(memory, memory.row(), memory.rank());
    words.add("chip", memory.chip_id());
    words
}

fn short_place(memory: &ShortMemoryError, row: Option<u32>, rank: Option<u16>) -> Words {
    let mut words = Words::default();
    words.add("node", memory.node());
    words.add("card", memory.card());
    words.add("module", memory.module());
    words.add("rank", rank);
    words.bank(memory.bank());
    words.add("device", memory.device());
    words.add("row", row);
    words.add("column", memory.column());
    words.add("bit", memory.bit_position());
    words
}

fn add_place(facts: &mut Vec<Fact>, words: Words) {
    if !words.0.is_empty() {
        facts.push(fact("Where", words.0.join(", ")));
    }
}

fn dimm(handle: u32) -> Fact {
    let text = format!("SMBIOS handle {handle:#06x}: `dmidecode -t 17` names its slot");
    fact("DIMM", text)
}

fn arm_facts(arm: &ArmError<'_>) -> Vec<Fact> {
    let header = arm.header;
    let mut processor = format!("MIDR {:#x}", header.midr.get());
    if let Some(mpidr) = header.mpidr() {
        processor += &format!(", MPIDR {mpidr:#x}");
    }
    if let Some(running) = header.is_running() {
        processor += if running {
            ", running"
        } else {
            ", not running"
        };
    }
    let mut facts = vec![fact("Processor", processor)];
    for info in arm.infos {
        let bits: Vec<_> = ErrorKind::by_bits(info.error_type)
            .map(ErrorKind::name)
            .collect();
        let by_number = ErrorKind::by_number(info.error_type);
        let kind = match (&bits[..], by_number) {
            ([], Some(kind)) => kind.name().to_owned(),
            // A type that means one thing by UEFI 2.10 and another before.
            (bits, Some(kind)) => {
                format!("{} (before UEFI 2.10: {})", bits.join(", "), kind.name())
            }
            ([], None) => format!("error of the reserved type {}", info.error_type),
            (bits, None) => bits.join(", "),
        };
        facts.push(fact("What", kind));
        let only = ErrorKind::by_bits(info.error_type).next().or(by_number);
        if let (Some(kind), Some(number)) = (only, info.error_information()) {
            facts.extend(details(kind.fields(), number));
        }
        if let Some(address) = info.virtual_address() {
            facts.push(fact("Access", format!("virtual {address:#x}")));
        }
        if let Some(address) = info.physical_address() {
            facts.push(fact("Address", format!("physical {address:#x}")));
        }
    }
    facts.extend(contexts(arm.contexts().count()));
    facts
}

fn x86_facts(x86: &X86Error<'_>) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(id) = x86.header.apic_id() {
        facts.push(fact("Processor", format!("APIC id {id}")));
    }
    for info in x86.infos {
        let name = info.kind().map(|kind| kind.name().to_owned());
        let name = name.unwrap_or_else(|| format!("error of type {}", info.error_type));
        facts.push(fact("What", name));
        if let (Some(kind), Some(check)) = (info.kind(), info.check_info()) {
            facts.extend(details(kind.fields(), check));
        }
        if let Some(address) = info.target_id() {
            facts.push(fact("Address", format!("accessed {address:#x}")));
        }
        if let Some(pointer) = info.instruction_pointer() {
            facts.push(fact("Access", format!("at instruction {pointer:#x}")));
        }
    }
    facts.extend(contexts(x86.contexts().count()));
    facts
}

fn contexts(count: usize) -> Option<Fact> {
    let sets = match count {
        0 => return None,
        1 => "one set".to_owned(),
        count => format!("{count} sets"),
    };
    Some(fact("Registers", format!("{sets}; --json shows them")))
}

/// Those fields that say something, in words.
fn details(fields: &[BitField], number: u64) -> Option<Fact> {
    let words: Vec<_> = fields
        .iter()
        .filter_map(|field| {
            let value = field.get(number)?;
            let name = spaced(field.name);
            match (field.values, field.value_name(value)) {
                (Values::Boolean, _) => Some(if value == 0 {
                    format!("not {name}")
                } else {
                    name
                }),
                (_, Some(value)) => Some(format!("{name} {value}")),
                (_, None) => Some(format!("{name} {value}")),
            }
        })
        .collect();
    (!words.is_empty()).then(|| fact("Detail", words.join(", ").to_lowercase()))
}

/// `processorContextCorrupt` as people write it.
fn spaced(name: &str) -> String {
    let mut text = String::new();
    let mut before = 'A';
    for letter in name.chars() {
        if letter.is_uppercase() && before.is_lowercase() {
            text.push(' ');
        }
        text.push(letter);
        before = letter;
    }
    text
}
