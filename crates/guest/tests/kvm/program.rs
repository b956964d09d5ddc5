//! A guest of a few dozen instructions that does as it is told and has a handler for machine
//! checks: 64-bit, flat, at the bottom of its memory.

use std::arch::global_asm;

/// Where the guest asks what to do ([`Command`]).
pub(crate) const ASK: u16 = 0x20;
/// Where it says, of a machine check or a poll: MCG_STATUS; for each bank with a record the register
/// number of its MCi_STATUS, and STATUS, ADDR and MISC by halves, of MISC the lower; [`END`].
pub(crate) const SAY: u16 = 0x21;

/// What the guest can be told to do next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// Ask again.
    Idle = 0,
    /// Set CR4.MCE.
    TurnOn = 1,
    /// Read and clear the banks, as a timer would have it.
    Poll = 2,
    /// Read the word at [`TOUCHED`]: hand it out, or leave it after a machine check.
    Touch = 3,
    /// Clear the banks without reading them, as at boot.
    Clear = 4,
    /// Write [`STORED`] to [`TOUCHED`], or leave it after a machine check.
    Store = 5,
}

/// Where it says what it has read at [`TOUCHED`], or something else where it could not.
pub(crate) const READ: u16 = 0x22;

/// The last word of a machine check or a poll.
pub(crate) const END: u32 = 0xffff_ffff;

/// The address that [`Command::Touch`] reads.
pub(crate) const TOUCHED: u64 = 0x4000_0000;

/// What [`Command::Store`] writes.
pub(crate) const STORED: u32 = 0x5703_5703;

/// Where the program lies, and the top of its stack.
pub(crate) const CODE: u64 = 0x8000;
pub(crate) const STACK: u64 = 0x20000;

global_asm!(
    ".pushsection .rodata.pagemend_guest_program, \"a\"",
    ".globl pagemend_guest_main, pagemend_guest_handler, pagemend_guest_end",
    "pagemend_guest_main:",
    "2:  in eax, 0x20",
    "    cmp eax, 1",
    "    je 3f",
    "    cmp eax, 2",
    "    je 4f",
    "    cmp eax, 3",
    "    je 5f",
    "    cmp eax, 4",
    "    je 6f",
    "    cmp eax, 5",
    "    je 9f",
    "    jmp 2b",
    // TurnOn: CR4.MCE is bit 6.
    "3:  mov rax, cr4",
    "    or rax, 0x40",
    "    mov cr4, rax",
    "    jmp 2b",
    // Poll.
    "4:  mov ecx, 0x17a",
    "    rdmsr",
    "    out 0x21, eax",
    "    call 20f",
    "    mov eax, 0xffffffff",
    "    out 0x21, eax",
    "    jmp 2b",
    // Touch, and say what was there.
    "5:  mov esi, 0x40000000",
    "    lea r15, [rip + 10f]",
    "10: mov eax, [rsi]",
    "    out 0x22, eax",
    "    jmp 2b",
    // Clear: MCi_STATUS of banks 8 to 15.
    "6:  mov ecx, 0x421",
    "7:  xor eax, eax",
    "    xor edx, edx",
    "    wrmsr",
    "    add ecx, 4",
    "    cmp ecx, 0x441",
    "    jb 7b",
    "    jmp 2b",
    // Store.
    "9:  mov esi, 0x40000000",
    "    mov ebx, 0x57035703",
    "    lea r15, [rip + 12f]",
    "12: mov [rsi], ebx",
    "    jmp 2b",
    // The handler: MCG_STATUS, the banks, the end of the machine check.
    "pagemend_guest_handler:",
    "    push rax",
    "    push rcx",
    "    push rdx",
    "    mov ecx, 0x17a",
    "    rdmsr",
    "    out 0x21, eax",
    "    call 20f",
    "    mov eax, 0xffffffff",
    "    out 0x21, eax",
    "    mov ecx, 0x17a",
    "    xor eax, eax",
    "    xor edx, edx",
    "    wrmsr",
    // What was touched is given up: the load or store, of two bytes, is left out, if it is to come.
    "    cmp [rsp + 24], r15",
    "    jne 8f",
    "    add qword ptr [rsp + 24], 2",
    "8:  pop rdx",
    "    pop rcx",
    "    pop rax",
    "    iretq",
    // Banks 8 to 15: those with VAL are said as bank, STATUS, ADDR and MISC, and cleared.
    "20: mov ecx, 0x421",
    "21: rdmsr",
    "    bt edx, 31",
    "    jnc 22f",
    "    push rax",
    "    mov eax, ecx",
    "    out 0x21, eax",
    "    pop rax",
    "    out 0x21, eax",
    "    mov eax, edx",
    "    out 0x21, eax",
    "    inc ecx",
    "    rdmsr",
    "    out 0x21, eax",
    "    mov eax, edx",
    "    out 0x21, eax",
    "    inc ecx",
    "    rdmsr",
    "    out 0x21, eax",
    "    sub ecx, 2",
    "    xor eax, eax",
    "    xor edx, edx",
    "    wrmsr",
    "22: add ecx, 4",
    "    cmp ecx, 0x441",
    "    jb 21b",
    "    ret",
    "pagemend_guest_end:",
    ".popsection",
);

unsafe extern "C" {
    safe static pagemend_guest_main: u8;
    safe static pagemend_guest_handler: u8;
    safe static pagemend_guest_end: u8;
}

/// The program, and where in it the handler begins.
pub(crate) fn program() -> (&'static [u8], u64) {
    let start = &raw const pagemend_guest_main;
    let len = &raw const pagemend_guest_end as usize - start as usize;
    let handler = &raw const pagemend_guest_handler as usize - start as usize;
    // SAFETY: the three symbols are in this order in one section of this binary.
    (
        unsafe { std::slice::from_raw_parts(start, len) },
        handler as u64,
    )
}
