//! Machine-check registers in words: what failed, where, how badly, and what follows.

use pagemend::guest::x86::bits::{MCI_STATUS_POISON, MCI_STATUS_VAL};
use pagemend::guest::x86::{
    AddressMode, Explanation, MachineCheck, Severity, Vendor, Written, explain as read,
};

use super::explain::{Item, Part};
use super::facts::{Fact, fact};
use super::read::Found;

/// `lines` are those of a log that it was printed in.
pub(super) fn explain(found: &Found, written: &[Written], lines: &[String]) -> Item {
    let banks = written.iter().filter_map(|written| written.bank);
    let banks: Vec<_> = banks.map(|bank| bank.to_string()).collect();
    let title = match &banks[..] {
        [] => "Machine check".to_owned(),
        banks => format!("Machine check, bank {}", banks.join(", ")),
    };
    let mut item = Item::new(found, "machine-check", title);
    item.facts = lines.iter().map(|line| fact("Printed", line)).collect();
    item.parts = written.iter().flat_map(readings).collect();
    item
}

/// One reading, or one by each vendor's rules where it is not said whose it is.
fn readings(written: &Written) -> Vec<Part> {
    let vendors = match &written.vendor {
        Some(vendor) => std::slice::from_ref(vendor),
        None => &[Vendor::Intel, Vendor::Amd],
    };
    let readings = vendors.iter().map(|vendor| reading(*vendor, written));
    readings.collect()
}

fn reading(vendor: Vendor, written: &Written) -> Part {
    let record = &written.record;
    let said = read(vendor, record);
    let rules = match vendor {
        Vendor::Intel => "Intel's",
        Vendor::Amd => "AMD's",
    };
    let mut part = Part::new(format!("By {rules} rules: {}", said.severity), Vec::new());
    part.problem.clone_from(&written.problem);
    let mut facts = vec![fact("Registers", registers(record))];
    if let Some(cpu) = written.cpu {
        facts.push(fact("Processor", cpu.to_string()));
    }
    if record.status & MCI_STATUS_VAL != 0 {
        facts.extend(of_valid(vendor, record, &said));
        part.address = said.gpa.map(|gpa| gpa.get());
    }
    facts.push(fact("Linux", linux(vendor, record, &said)));
    facts.extend(advice(&said));
    part.facts = facts;
    part
}

fn registers(record: &MachineCheck) -> String {
    let MachineCheck {
        bank: _,
        status,
        addr,
        misc,
        mcg_status,
    } = record;
    format!("status {status:#x}, addr {addr:#x}, misc {misc:#x}, MCG_STATUS {mcg_status:#x}")
}

fn of_valid(vendor: Vendor, record: &MachineCheck, said: &Explanation) -> Vec<Fact> {
    let what = match &said.detail {
        Some(detail) => format!("{}: {detail}", said.kind),
        None => said.kind.to_owned(),
    };
    let mut facts = vec![fact("What", what)];
    if said.model_code != 0 {
        let text = format!(
            "{:#x}, which the processor's own documents explain",
            said.model_code
        );
        facts.push(fact("Code", text));
    }
    facts.push(fact("Address", address(vendor, record, said)));
    facts.push(fact("Bits", said.bits.join(" ")));
    if let Some(count) = said.corrected {
        facts.push(fact("Count", format!("{count} corrected errors")));
    }
    if said.overflow {
        facts.push(fact(
            "Note",
            "another error came while the bank held one, and is lost",
        ));
    }
    facts
}

fn address(vendor: Vendor, record: &MachineCheck, said: &Explanation) -> String {
    match (AddressMode::of(vendor, record), said.lsb) {
        (None, _) => "none".to_owned(),
        (Some(AddressMode::Physical), Some(lsb)) => {
            format!("physical {:#x}, exact to 2^{lsb} bytes", record.addr)
        }
        (Some(AddressMode::Physical), None) => format!("physical {:#x}", record.addr),
        (Some(mode), _) => format!("{:#x}, {mode}", record.addr),
    }
}

/// What Linux 6.12 does, on processors that let it recover (`mce_severity`, `do_machine_check`,
/// `uc_decode_notifier`: arch/x86/kernel/cpu/mce).
fn linux(vendor: Vendor, record: &MachineCheck, said: &Explanation) -> String {
    let page = said.gpa.map(|gpa| gpa.frame().get());
    // Older AMD processors give addresses with deferred errors that are none (amd_mce_usable_address).
    let page = page.filter(|_| vendor == Vendor::Intel || record.status & MCI_STATUS_POISON != 0);
    let take_out = |then: &str| match page {
        Some(page) => format!("takes the page at {page:#x} out of use{then}"),
        None => "logs it and does nothing, for want of a usable address".to_owned(),
    };
    match said.severity {
        Severity::Invalid => "finds no record in this bank".to_owned(),
        Severity::NotEnabled => "clears it and goes on".to_owned(),
        Severity::Corrected => {
            "logs it, and counts it if rasdaemon or the like is there".to_owned()
        }
        Severity::Deferred | Severity::NoAction | Severity::ActionOptional => {
            take_out(", and signals (SIGBUS) who wants to know early")
        }
        Severity::ActionRequired if page.is_some() => take_out(
            ", and signals (SIGBUS) the program that touched it; in the kernel's own code it panics, but where that copies from a program",
        ),
        Severity::ActionRequired => {
            "kills the program, or panics in the kernel's own code".to_owned()
        }
        Severity::Uncorrected | Severity::Fatal => "panics".to_owned(),
    }
}

/// What a person can do.
fn advice(said: &Explanation) -> Option<Fact> {
    let text = match said.severity {
        Severity::Invalid | Severity::NotEnabled => return None,
        Severity::Corrected => "nothing was lost. Look for what is wrong if such errors come often",
        Severity::Uncorrected | Severity::Fatal => {
            "the machine could not go on. Look for other records of the same moment, and have the \
             hardware checked"
        }
        _ => {
            "data was lost at this address. In a guest: its host has told it so, look there. On a \
             machine: find the module by the address (EDAC, the vendor's tools) and plan to replace it"
        }
    };
    Some(fact("Do", text))
}
