//! All there is of a BIOS: the reset vector, which starts the machine again.
//!
//! A processor in real mode jumps there to start again, and so does Linux where ACPI is "hardware
//! reduced" and there is no EFI: it does not ask the tables for the reset register then
//! (`efi_reboot_required`, drivers/firmware/efi/reboot.c; `BOOT_BIOS`, arch/x86/kernel/reboot.c).

use pagemend::GuardError;

use crate::devices::power;
use crate::layout;
use crate::memory::Ram;

/// Real mode: writes the reset register, and waits for what comes of it.
#[rustfmt::skip]
const RESET: [u8; 9] = {
    let [low, high] = power::RESET.to_le_bytes();
    [
        0xba, low, high, // mov dx, RESET
        0xb0, power::RESET_VALUE, // mov al, RESET_VALUE
        0xee, // out dx, al
        0xf4, // 1: hlt
        0xeb, 0xfd, // jmp 1b
    ]
};

// It ends with the first MiB.
const _: () = assert!(layout::RESET_VECTOR.get() + RESET.len() as u64 <= layout::HIGH_MEMORY.get());

/// Puts it in its place.
pub(super) fn write(ram: &Ram) -> Result<(), GuardError> {
    ram.write(layout::RESET_VECTOR, &RESET)
}
