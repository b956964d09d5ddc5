//! What there is besides processors, in ACPI's own language: serial ports, the panic port, the power
//! switch, and the method by which the guest says what it can do.

use acpi_tables::Aml;
use acpi_tables::aml::{self, EISAName, FieldAccessType, FieldLockRule, FieldUpdateRule};
use acpi_tables::sdt::Sdt;

use super::{OEM, REVISION, TABLE};
use crate::devices::{osc, panic, power, serial};

/// The capabilities of the whole platform (ACPI 6.5, 6.2.12.2).
const PLATFORM: &str = "0811b06e-4a27-44f9-8d60-3cbbc22e7b48";
/// Bits of the first word that `_OSC` returns (ACPI 6.5, 6.2.12.1): the UUID is not known; some of
/// what was asked for is not granted.
const UNKNOWN_UUID: u8 = 1 << 2;
const MASKED: u8 = 1 << 4;
/// What is granted: that errors are reported by APEI's tables (table 6.15).
const GRANTED: u8 = 1 << 4;

/// The table.
pub(super) fn dsdt(vcpus: u8) -> Sdt {
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
    osc(&mut body);
    let off = power::SLEEP_TYPE_OFF;
    let off = aml::Package::new(vec![&off]);
    aml::Name::new("_S5_".into(), &off).to_aml_bytes(&mut body);

    // 36 bytes are a table's header, and from revision 2 on AML's integers have 64 bits.
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    table.append_slice(&body);
    table
}

/// `\_SB._OSC`: writes what the guest can do to a port of the machine's, and grants APEI.
fn osc(body: &mut Vec<u8>) {
    let port = aml::OpRegion::new(
        "_SB_.OSCP".into(),
        aml::OpRegionSpace::SystemIO,
        &osc::PORT,
        &4u8,
    );
    port.to_aml_bytes(body);
    aml::Field::new(
        "_SB_.OSCP".into(),
        FieldAccessType::DWord,
        FieldLockRule::NoLock,
        FieldUpdateRule::Preserve,
        vec![aml::FieldEntry::Named(*b"OSCA", 32)],
    )
    .to_aml_bytes(body);

    let (status, support) = (aml::Path::new("CDW1"), aml::Path::new("CDW2"));
    let (uuid, buffer, asked) = (aml::Arg(0), aml::Arg(3), aml::Local(0));
    let platform = aml::Uuid::new(PLATFORM);
    let status_word = aml::CreateDWordField::new(&status, &buffer, &aml::ZERO);
    let is_platform = aml::Equal::new(&uuid, &platform);
    let support_word = aml::CreateDWordField::new(&support, &buffer, &4u8);
    let keep = aml::Store::new(&asked, &support);
    let port = aml::Path::new("OSCA");
    let say = aml::Store::new(&port, &support);
    let grant = aml::And::new(&support, &support, &GRANTED);
    let changed = aml::NotEqual::new(&support, &asked);
    let masked = aml::Or::new(&status, &status, &MASKED);
    let if_masked = aml::If::new(&changed, vec![&masked]);
    let then = aml::If::new(
        &is_platform,
        vec![&support_word, &keep, &say, &grant, &if_masked],
    );
    let unknown = aml::Or::new(&status, &status, &UNKNOWN_UUID);
    let otherwise = aml::Else::new(vec![&unknown]);
    let answer = aml::Return::new(&buffer);
    aml::Method::new(
        "_SB_._OSC".into(),
        4,
        true,
        vec![&status_word, &then, &otherwise, &answer],
    )
    .to_aml_bytes(body);
}
