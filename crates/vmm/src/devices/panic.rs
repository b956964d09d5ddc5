//! The port by which a guest's kernel says that it has panicked: QEMU's pvpanic device
//! (docs/specs/pvpanic.rst there), for which Linux has a driver.

use crate::events::{Hub, What};

/// The port, where QEMU has it.
pub(crate) const PORT: u16 = 0x505;
/// The bit for "the kernel has panicked", which is all that is offered.
const PANICKED: u8 = 1;

/// Answers a read: what may be said.
pub(super) fn read() -> u8 {
    PANICKED
}

/// Takes what the guest says.
pub(super) fn write(value: u8, hub: &Hub) {
    if value & PANICKED != 0 {
        hub.tell(What::GuestPanicked);
    }
}
