//! The ACPI tables that a stock kernel needs: which processors and interrupt controllers there
//! are, how to switch the machine off or start it again, and where it learns of errors. The machine is "hardware-reduced":
//! it has none of the registers that a PC of the nineties had.

mod apei;
mod dsdt;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use pagemend::{Gpa, GuardError};

use crate::devices::power;
use crate::layout;
use crate::memory::Ram;

pub(crate) use apei::source;

const OEM: [u8; 6] = *b"PGMEND";
const TABLE: [u8; 8] = *b"PAGEMEND";
const REVISION: u32 = 1;
/// `IAPC_BOOT_ARCH` (ACPI 6.5, section 5.2.9.3): there is no VGA and no CMOS clock, and, by a bit
/// that is clear, no i8042: it has only the reset line, and looking for the rest takes seconds.
const BOOT_ARCH: u16 = 1 << 2 | 1 << 5;

/// Writes all tables and returns where the root pointer is. `before` is what the guest had lost
/// when it was last reset.
pub(crate) fn write_tables(ram: &Ram, vcpus: u8, before: &[Gpa]) -> Result<Gpa, GuardError> {
    let mut next = layout::ACPI.get() + Rsdp::len() as u64;
    let mut place = |bytes: &[u8]| -> Result<u64, GuardError> {
        // Every table on a boundary of 16 bytes, as firmware does.
        let at = next.next_multiple_of(16);
        next = at + bytes.len() as u64;
        ram.write(Gpa::new(at), bytes)?;
        Ok(at)
    };
    let dsdt = place(&bytes_of(&dsdt::dsdt(vcpus)))?;
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(place(&bytes_of(&fadt(dsdt)))?);
    xsdt.add_entry(place(&bytes_of(&madt(vcpus)))?);
    let firmware = ram.firmware();
    xsdt.add_entry(place(&apei::hest(firmware))?);
    xsdt.add_entry(place(&apei::bert(firmware))?);
    apei::write_boot_errors(ram, before)?;
    let xsdt = place(&bytes_of(&xsdt))?;
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

#[cfg(test)]
mod tests;
