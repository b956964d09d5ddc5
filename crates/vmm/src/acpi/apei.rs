//! Where the guest learns of errors: a source of records that it polls (HEST), and what was lost
//! before it was started again (BERT). Both lie in memory that is firmware's.

use pagemend::{AddressRange, Gpa, GpaRange, GuardError};
use pagemend_cper::acpi::bert;
use pagemend_cper::acpi::hest::{
    GenericSource, GenericSource2, HestBuilder, Notification, NotificationKind,
};
use pagemend_cper::acpi::table::Origin;
use pagemend_guest::ghes::{BLOCK_FRAMES, BLOCK_LEN, Place, boot_errors};

use super::{OEM, REVISION, TABLE};
use crate::memory::Ram;

const ORIGIN: Origin = Origin {
    oem_id: OEM,
    oem_table_id: TABLE,
    oem_revision: REVISION,
};

/// The source's number in the table.
const SOURCE: u16 = 0;

/// Milliseconds between two looks at the source. Linux rounds its timer to whole seconds, and with
/// much less than one it may look at every tick instead (`ghes_add_timer`,
/// drivers/acpi/apei/ghes.c).
const POLL_INTERVAL: u32 = 1000;

/// Where the source of records is in memory that is firmware's.
pub(crate) fn source(firmware: GpaRange) -> Place {
    Place::new(firmware.start())
}

/// Where errors of the boot before are.
fn boot_region(firmware: GpaRange) -> GpaRange {
    let start = firmware.start().checked_add(Place::LEN);
    start
        .and_then(|start| AddressRange::new(start, firmware.len() - Place::LEN))
        .expect("firmware's memory is some frames")
}

pub(super) fn hest(firmware: GpaRange) -> Vec<u8> {
    let place = source(firmware);
    let polled = Notification::new(NotificationKind::Polled, POLL_INTERVAL);
    let source = GenericSource {
        sections: (BLOCK_FRAMES as u32).into(),
        ..GenericSource::new(SOURCE, place.status_address().get(), BLOCK_LEN, polled)
    };
    let mut hest = HestBuilder::new();
    hest.generic2(&GenericSource2::new(source, place.read_ack().get()));
    hest.build(&ORIGIN)
}

pub(super) fn bert(firmware: GpaRange) -> Vec<u8> {
    let region = boot_region(firmware);
    bert::bert(&ORIGIN, region.start().get(), region.len() as u32)
}

/// Writes what was lost before the guest was started again.
pub(super) fn write_boot_errors(ram: &Ram, lost: &[Gpa]) -> Result<(), GuardError> {
    let region = boot_region(ram.firmware());
    let (bytes, named) = boot_errors(lost, region.len() as usize);
    if named < lost.len() {
        tracing::warn!(
            lost = lost.len(),
            named,
            "not all that the guest had lost has room in its boot error records"
        );
    }
    ram.write(region.start(), &bytes)
}
