//! Switching off and starting again: the sleep and reset registers that the ACPI tables name, and
//! the i8042's reset line, which kernels use that distrust the tables.

use super::Demand;

/// The register that starts the machine again when [`RESET_VALUE`] is written to it.
pub(crate) const RESET: u16 = 0x604;
pub(crate) const RESET_VALUE: u8 = 1;
/// The sleep control register (ACPI 6.5, section 4.8.3.7).
pub(crate) const SLEEP_CONTROL: u16 = 0x600;
/// The sleep status register, which never has anything to say.
pub(crate) const SLEEP_STATUS: u16 = 0x601;
/// The sleep type of "soft off" in this machine's `_S5_`.
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;

/// Position of the sleep type, and the bit that starts it, in the sleep control register.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_ENABLE: u8 = 1 << 5;

/// What is written to the sleep control register to switch the machine off.
pub(crate) const OFF: u8 = SLEEP_ENABLE | SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT;

const I8042_DATA: u16 = 0x60;
const I8042_COMMAND: u16 = 0x64;
/// The i8042's command that pulses the processors' reset line.
const I8042_RESET: u8 = 0xfe;

/// The machine's power switch.
pub(crate) struct Power;

impl Power {
    pub(super) fn has(port: u16) -> bool {
        matches!(
            port,
            RESET | SLEEP_CONTROL | SLEEP_STATUS | I8042_DATA | I8042_COMMAND
        )
    }

    /// Nothing is ever pending: no key was pressed, no command is being worked on.
    pub(super) fn read(_port: u16) -> u8 {
        0
    }

    pub(super) fn write(port: u16, value: u8) -> Option<Demand> {
        match (port, value) {
            (RESET, RESET_VALUE) | (I8042_COMMAND, I8042_RESET) => Some(Demand::Reset),
            (SLEEP_CONTROL, OFF) => Some(Demand::Off),
            _ => None,
        }
    }
}
