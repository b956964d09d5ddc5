//! A guest that counts its starts, and starts again until there have been enough.

use std::arch::global_asm;

use pagemend::{Gpa, GuardError};

use super::code_between;
use crate::memory::Ram;

const STARTS: Gpa = Gpa::new(0x20_0000);
/// How often it starts.
pub const ENOUGH: u64 = 3;

/// The guest: a [`Payload::Flat`](crate::Payload::Flat).
pub fn code() -> Vec<u8> {
    code_between!(pagemend_restart_start, pagemend_restart_end)
}

/// How often it has started.
///
/// # Errors
///
/// Where the count is in memory that has failed.
pub fn starts(ram: &Ram) -> Result<u64, GuardError> {
    let mut count = [0; 8];
    ram.read(STARTS, &mut count)?;
    Ok(u64::from_le_bytes(count))
}

global_asm!(
    ".pushsection .rodata.pagemend_restart, \"a\", @progbits",
    ".global pagemend_restart_start",
    ".global pagemend_restart_end",
    "pagemend_restart_start:",
    "    inc qword ptr [{starts}]",
    "    cmp qword ptr [{starts}], {enough}",
    "    jae 20f",
    "    mov edx, {reset}",
    "    mov al, {reset_value}",
    "    out dx, al",
    "10: hlt",
    "    jmp 10b",
    "20: mov edx, {sleep_control}",
    "    mov al, {off}",
    "    out dx, al",
    "    jmp 10b",
    "pagemend_restart_end:",
    ".popsection",
    starts = const STARTS.get(),
    enough = const ENOUGH,
    reset = const crate::devices::power::RESET,
    reset_value = const crate::devices::power::RESET_VALUE,
    sleep_control = const crate::devices::power::SLEEP_CONTROL,
    off = const crate::devices::power::OFF,
);
