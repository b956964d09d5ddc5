//! The port by which the guest's ACPI interpreter says what the guest can do: the machine's own
//! `_OSC` method writes it there.

use crate::tell::Told;

/// The port, 32 bits wide, next to those of the power switch.
pub(crate) const PORT: u16 = 0x608;

/// Takes what the guest says: the second word of its capabilities.
pub(super) fn write(support: u32, told: &Told) {
    told.osc(support);
}
