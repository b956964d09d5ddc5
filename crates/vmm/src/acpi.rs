//! The ACPI tables that a stock kernel needs: which processors and interrupt controllers there
//! are, and how to switch the machine off or start it again. The machine is "hardware-reduced":
//! it has none of the registers that a PC of the nineties had.

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{aml, aml::EISAName};
use pagemend::{Gpa, GuardError};

use crate::devices::{panic, power, serial};
use crate::layout;
use crate::memory::Ram;

const OEM: [u8; 6] = *b"PGMEND";
const TABLE: [u8; 8] = *b"PAGEMEND";
const REVISION: u32 = 1;
/// `IAPC_BOOT_ARCH` (ACPI 6.5, section 5.2.9.3): there is no VGA and no CMOS clock, and, by a bit
/// that is clear, no i8042: it has only the reset line, and looking for the rest takes seconds.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// Writes all tables and returns where the root pointer is.
pub(crate) fn write_tables(ram: &Ram, vcpus: u8) -> Result<Gpa, GuardError> {
    let mut next = layout::ACPI.get() + Rsdp::len() as u64;
    let mut place = |table: &dyn Aml| -> Result<u64, GuardError> {
        // Every table on a boundary of 16 bytes, as firmware does.
        let at = next.next_multiple_of(16);
        let bytes = bytes_of(table);
        next = at + bytes.len() as u64;
        ram.write(Gpa::new(at), &bytes)?;
        Ok(at)
    };
    let dsdt = place(&dsdt(vcpus))?;
    let fadt = place(&fadt(dsdt))?;
    let madt = place(&madt(vcpus))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&xsdt)?;
    ram.write(layout::ACPI, &bytes_of(&Rsdp::new(OEM, xsdt)))?;
    Ok(layout::ACPI)
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = vec![];
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(address: u16) -> GAS {
    let space = AddressSpace::SystemIo;
    GAS::new(space, 8, 0, AccessSize::ByteAccess, address.into())
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(power::RESET);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = port(power::SLEEP_CONTROL);
    fadt.sleep_status_reg = port(power::SLEEP_STATUS);
    fadt.finalize()
}

fn madt(vcpus: u8) -> MADT {
    let local = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM, TABLE, REVISION, local);
    for id in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(vcpus, layout::IO_APIC, 0));
    madt
}

fn dsdt(vcpus: u8) -> Sdt {
    let mut body = vec![];
    for id in 0..vcpus {
        let name = format!("_SB_.C{id:03}");
        let hid = aml::Name::new("_HID".into(), &"ACPI0007");
        let uid = aml::Name::new("_UID".into(), &id);
        aml::Device::new(name.as_str().into(), vec![&hid, &uid]).to_aml_bytes(&mut body);
    }
    for (name, uid, port, irq) in [
        ("_SB_.COM1", 0u8, serial::COM1, serial::COM1_IRQ),
        ("_SB_.COM2", 1u8, serial::COM2, serial::COM2_IRQ),
    ] {
        let hid = EISAName::new("PNP0501");
        let hid = aml::Name::new("_HID".into(), &hid);
        let uid = aml::Name::new("_UID".into(), &uid);
        let interrupt = aml::Interrupt::new(true, true, false, false, irq);
        let ports = aml::IO::new(port, port, 0, serial::PORTS as u8);
        let resources = aml::ResourceTemplate::new(vec![&interrupt, &ports]);
        let resources = aml::Name::new("_CRS".into(), &resources);
        aml::Device::new(name.into(), vec![&hid, &uid, &resources]).to_aml_bytes(&mut body);
    }
    let hid = aml::Name::new("_HID".into(), &"QEMU0001");
    let port = aml::IO::new(panic::PORT, panic::PORT, 0, 1);
    let resources = aml::ResourceTemplate::new(vec![&port]);
    let resources = aml::Name::new("_CRS".into(), &resources);
    aml::Device::new("_SB_.PEVT".into(), vec![&hid, &resources]).to_aml_bytes(&mut body);
    let off = power::SLEEP_TYPE_OFF;
    let off = aml::Package::new(vec![&off]);
    aml::Name::new("_S5_".into(), &off).to_aml_bytes(&mut body);

    // 36 bytes are a table's header, and from revision 2 on AML's integers have 64 bits.
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    table.append_slice(&body);
    table
}
