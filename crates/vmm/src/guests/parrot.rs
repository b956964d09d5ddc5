//! A guest that gives back what is typed into its console, and at a `q` switches the machine off:
//! something that lives until it is told otherwise.

use std::arch::global_asm;

use super::code_between;

/// The guest: a [`Payload::Flat`](crate::Payload::Flat).
pub fn code() -> Vec<u8> {
    code_between!(pagemend_parrot_start, pagemend_parrot_end)
}

global_asm!(
    ".pushsection .rodata.pagemend_parrot, \"a\", @progbits",
    ".global pagemend_parrot_start",
    ".global pagemend_parrot_end",
    "pagemend_parrot_start:",
    // The first vCPU alone has the console.
    "    test rdi, rdi",
    "    jnz 30f",
    "10: mov edx, {status}",
    "11: in al, dx",
    "    pause",
    "    test al, 1", // a byte has come
    "    jz 11b",
    "    mov edx, {data}",
    "    in al, dx",
    "    out dx, al",
    "    cmp al, 'q'",
    "    jne 10b",
    "    mov edx, {sleep_control}",
    "    mov al, {off}",
    "    out dx, al",
    "30: pause",
    "    jmp 30b",
    "pagemend_parrot_end:",
    ".popsection",
    data = const crate::devices::serial::COM1,
    // The line status register of a 16550A.
    status = const crate::devices::serial::COM1 + 5,
    sleep_control = const crate::devices::power::SLEEP_CONTROL,
    off = const crate::devices::power::OFF,
);
