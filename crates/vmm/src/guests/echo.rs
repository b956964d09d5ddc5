//! A guest that writes to its first serial port what comes in at its second, up to the end of a
//! line, and says on the second how many bytes that were.

use std::arch::global_asm;

use super::code_between;

/// The guest: a [`Payload::Flat`](crate::Payload::Flat).
pub fn code() -> Vec<u8> {
    code_between!(pagemend_echo_start, pagemend_echo_end)
}

global_asm!(
    ".pushsection .rodata.pagemend_echo, \"a\", @progbits",
    ".global pagemend_echo_start",
    ".global pagemend_echo_end",
    "pagemend_echo_start:",
    "    xor ebx, ebx",
    "10: mov edx, {com2} + 5", // line status; bit 0: there is a byte
    "    in al, dx",
    "    test al, 1",
    "    pause",
    "    jz 10b",
    "    mov edx, {com2}",
    "    in al, dx",
    "    inc ebx",
    "    mov edx, {com1}",
    "    out dx, al",
    "    cmp al, 10",
    "    jne 10b",
    "    mov edx, {com2}",
    "    mov al, bl",
    "    out dx, al",
    "    mov edx, {sleep_control}",
    "    mov al, {off}",
    "    out dx, al",
    "20: hlt",
    "    jmp 20b",
    "pagemend_echo_end:",
    ".popsection",
    com1 = const crate::devices::serial::COM1,
    com2 = const crate::devices::serial::COM2,
    sleep_control = const crate::devices::power::SLEEP_CONTROL,
    off = const crate::devices::power::OFF,
);
