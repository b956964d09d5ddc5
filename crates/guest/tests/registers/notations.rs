//! A machine check in every notation that is read, so that it can be held against what is read of
//! it. Shared by the property tests and the fuzzer.

use pagemend_guest::x86::bits::MCI_STATUS_VAL;
use pagemend_guest::x86::{MachineCheck, Vendor, Written};

/// `said` in each notation, with what is to be read of it: people may leave out what programs never
/// do, and some programs do not print all of it.
pub(crate) fn every_notation(said: &Written) -> Vec<(String, Written)> {
    let said = Written {
        line: 1,
        problem: None,
        ..said.clone()
    };
    let full = Written {
        vendor: said.vendor.or(Some(Vendor::Intel)),
        cpu: said.cpu.or(Some(0)),
        bank: said.bank.or(Some(0)),
        ..said.clone()
    };
    let vendorless = Written {
        vendor: None,
        ..full.clone()
    };
    let amd = Written {
        vendor: Some(Vendor::Amd),
        record: MachineCheck {
            misc: 0,
            mcg_status: 0,
            ..full.record
        },
        ..full.clone()
    };
    let mut notations = vec![
        (pairs(&said), said.clone()),
        (names_and_blanks(&said), said.clone()),
        (kernel(&full), full.clone()),
        (tracepoint_until_6_9(&full), full.clone()),
        (tracepoint(&full), full.clone()),
        (rasdaemon(&full), vendorless.clone()),
        (rasdaemon_with_a_named_bank(&full), vendorless),
        (amds_driver(&full), amd),
    ];
    // Of a bank without a record it prints nothing.
    if full.record.status & MCI_STATUS_VAL != 0 {
        notations.push((mcelog(&full), full));
    }
    notations
}

fn name(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Intel => "Intel",
        Vendor::Amd => "AMD",
    }
}

/// Linux's number (`X86_VENDOR_INTEL`, arch/x86/include/asm/processor.h).
fn number(said: &Written) -> u8 {
    match said.vendor {
        Some(Vendor::Amd) => 2,
        _ => 0,
    }
}

/// As people type it.
fn pairs(said: &Written) -> String {
    let MachineCheck {
        bank: _,
        status,
        addr,
        misc,
        mcg_status,
    } = said.record;
    let mut text = String::new();
    if let Some(cpu) = said.cpu {
        text += &format!("cpu={cpu} ");
    }
    if let Some(vendor) = said.vendor {
        text += &format!("vendor={} ", name(vendor).to_lowercase());
    }
    if let Some(bank) = said.bank {
        text += &format!("bank={bank} ");
    }
    text + &format!("status={status:#x} addr={addr:#x} misc={misc:#x} mcg_status={mcg_status:#x}")
}

fn names_and_blanks(said: &Written) -> String {
    pairs(said)
        .replace("mcg_", "mcg")
        .to_uppercase()
        .replace('=', " ")
}

/// arch/x86/kernel/cpu/mce/core.c, `__print_mce`.
fn kernel(said: &Written) -> String {
    let MachineCheck {
        bank,
        status,
        addr,
        misc,
        mcg_status,
    } = said.record;
    let cpu = said.cpu.unwrap_or(0);
    let vendor = number(said);
    format!(
        "[  12.3] mce: [Hardware Error]: CPU {cpu}: Machine Check Exception: {mcg_status:x} Bank {bank}: {status:016x}\n\
         [  12.3] mce: [Hardware Error]: RIP 33:<00007f0123456789> \n\
         [  12.3] mce: [Hardware Error]: TSC 1234567890 ADDR {addr:x} MISC {misc:x} \n\
         [  12.3] mce: [Hardware Error]: PROCESSOR {vendor}:50654 TIME 1763643600 SOCKET 0 APIC 3 microcode 1"
    )
}

/// include/trace/events/mce.h.
fn tracepoint_until_6_9(said: &Written) -> String {
    let MachineCheck {
        bank,
        status,
        addr,
        misc,
        mcg_status,
    } = said.record;
    let cpu = said.cpu.unwrap_or(0);
    let vendor = number(said);
    format!(
        "mce_record: CPU: {cpu}, MCGc/s: f000c14/{mcg_status:x}, MC{bank}: {status:016x}, IPID: 0000000000000000, \
         ADDR/MISC/SYND: {addr:016x}/{misc:016x}/0000000000000000, RIP: 33:<00007f0123456789>, \
         TSC: 12d687, PROCESSOR: {vendor}:50654, TIME: 1763643600, SOCKET: 0, APIC: 3"
    )
}

/// include/trace/events/mce.h.
fn tracepoint(said: &Written) -> String {
    let MachineCheck {
        bank,
        status,
        addr,
        misc,
        mcg_status,
    } = said.record;
    let cpu = said.cpu.unwrap_or(0);
    let vendor = number(said);
    format!(
        "mce_record: CPU: {cpu}, MCGc/s: f000c14/{mcg_status:x}, MC{bank}: {status:016x}, IPID: 0000000000000000, \
         ADDR: {addr:016x}, MISC: {misc:016x}, SYND: 0000000000000000, RIP: 33:<00007f0123456789>, \
         TSC: 12d687, PPIN: 0, vendor: {vendor}, CPUID: 50654, time: 1763643600, socket: 0, APIC: 3, microcode: 1"
    )
}

/// ras-mce-handler.c, `report_mce_event`; mce-intel.c, `decode_mcg`.
fn rasdaemon(said: &Written) -> String {
    let bank = said.record.bank;
    format!(
        "2025-11-20 13:00:00 +0000 bank={bank:x}{}",
        after_bank(said)
    )
}

/// The same, where mce-amd-smca.c or mce-amd-k8.c knows what the bank is.
fn rasdaemon_with_a_named_bank(said: &Written) -> String {
    let bank = said.record.bank;
    format!(
        "2025-11-20 13:00:00 +0000 Load Store Unit (bank={bank}){}",
        after_bank(said)
    )
}

fn after_bank(said: &Written) -> String {
    let MachineCheck {
        bank: _,
        status,
        addr,
        misc,
        mcg_status,
    } = said.record;
    let cpu = said.cpu.unwrap_or(0);
    format!(
        ", status= {status:x}, mci=Error_enabled, mca=Data CACHE Level-0 Data-Read Error, \
         cpu_type= Generic, cpu= {cpu}, socketid= 0, misc= {misc:x}, addr= {addr:x}, \
         mcgstatus={mcg_status} RIPV MCIP, mcgcap= f000c14, apicid= 3"
    )
}

/// drivers/edac/mce_amd.c. What it prints is AMD's, whatever else was said.
fn amds_driver(said: &Written) -> String {
    let MachineCheck {
        bank, status, addr, ..
    } = said.record;
    let cpu = said.cpu.unwrap_or(0);
    format!(
        "[Hardware Error]: CPU:{cpu} (17:31:0) MC{bank}_STATUS[-|-|MiscV|AddrV|-|-|-|-|Deferred|Poison|-]: {status:#018x}\n\
         [Hardware Error]: Error Addr: {addr:#018x}"
    )
}

/// mcelog.c, `dump_mce`.
fn mcelog(said: &Written) -> String {
    let MachineCheck {
        bank,
        status,
        addr,
        misc,
        mcg_status,
    } = said.record;
    let cpu = said.cpu.unwrap_or(0);
    let vendor = said.vendor.map_or("Unknown", name);
    format!(
        "CPU {cpu} BANK {bank} TSC 12d687 \nRIP 33:7f0123456789\nMISC {misc:x} ADDR {addr:x} \n\
         TIME 1763643600 Thu Nov 20 13:00:00 2025\nMCG status:RIPV EIPV MCIP \nMCi status:\n\
         Uncorrected error\nSTATUS {status:x} MCGSTATUS {mcg_status:x}\nMCGCAP f000c14 APICID 3 SOCKETID 0 \n\
         CPUID Vendor {vendor} Family 6 Model 85"
    )
}
