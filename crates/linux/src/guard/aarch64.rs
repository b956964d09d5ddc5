//! The guarded instructions on arm64, and what of an interrupted context they need.
//!
//! Every function is a leaf that leaves the stack alone, so a landing pad can return to the caller
//! of whichever function was interrupted. At every instruction that may fault, `x0` and `x1` are at
//! the next byte to copy and `x2` counts the bytes left.

use core::arch::global_asm;

global_asm!(
    r#"
    .pushsection .text.pagemend_guard, "ax", @progbits
    .macro pagemend_guard_entry name
        .globl \name
        .hidden \name
        .type \name, @function
        .balign 16
    \name:
    .endm
    .macro pagemend_guard_mark name
        .globl \name
        .hidden \name
    \name:
    .endm
    .cfi_startproc

    .balign 64
    // (x0 to, x1 from, x2 bytes) -> (x0 bytes left, x1 address of the fault)
    pagemend_guard_mark pagemend_guard_wide_part
    pagemend_guard_entry pagemend_guard_copy_wide
        cmp     x2, #64
        b.lo    3f
    2:  ldp     q0, q1, [x1]
        ldp     q2, q3, [x1, #32]
        stp     q0, q1, [x0]
        stp     q2, q3, [x0, #32]
        add     x1, x1, #64
        add     x0, x0, #64
        sub     x2, x2, #64
        cmp     x2, #64
        b.hs    2b
    3:  cmp     x2, #8
        b.lo    5f
    4:  ldr     x3, [x1]
        str     x3, [x0]
        add     x1, x1, #8
        add     x0, x0, #8
        sub     x2, x2, #8
        cmp     x2, #8
        b.hs    4b
    5:  cbz     x2, 7f
    6:  ldrb    w3, [x1]
        strb    w3, [x0]
        add     x1, x1, #1
        add     x0, x0, #1
        sub     x2, x2, #1
        cbnz    x2, 6b
    7:  mov     x0, #0
        ret

    // The same registers as the wide copy.
    pagemend_guard_mark pagemend_guard_exact_part
    pagemend_guard_entry pagemend_guard_copy_exact
    pagemend_guard_mark pagemend_guard_resume_exact
        cbz     x2, 2f
    1:  ldrb    w3, [x1]
        strb    w3, [x0]
        add     x1, x1, #1
        add     x0, x0, #1
        sub     x2, x2, #1
        cbnz    x2, 1b
    2:
    pagemend_guard_mark pagemend_guard_stop
        mov     x0, x2
        ret

    // (x0 from, x1 unused, x2 bytes, a multiple of 64) -> (x0 bytes left, x1 address)
    pagemend_guard_entry pagemend_guard_touch
        cbz     x2, 2f
    1:  ldrb    w3, [x0]
        add     x0, x0, #64
        sub     x2, x2, #64
        cbnz    x2, 1b
    2:  mov     x0, #0
        ret

    // (x0 address[, x1 value or expected[, x2 new]]) -> (x0 zero, x1 value)
    pagemend_guard_mark pagemend_guard_single_part
    pagemend_guard_entry pagemend_guard_load8
        ldrb    w1, [x0]
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_load16
        ldrh    w1, [x0]
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_load32
        ldr     w1, [x0]
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_load64
        ldr     x1, [x0]
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_store8
        strb    w1, [x0]
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_store16
        strh    w1, [x0]
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_store32
        str     w1, [x0]
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_store64
        str     x1, [x0]
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_exchange8
    1:  ldaxrb  w3, [x0]
        cmp     w3, w1
        b.ne    2f
        stlxrb  w4, w2, [x0]
        cbnz    w4, 1b
    2:  mov     x1, x3
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_exchange16
    1:  ldaxrh  w3, [x0]
        cmp     w3, w1
        b.ne    2f
        stlxrh  w4, w2, [x0]
        cbnz    w4, 1b
    2:  mov     x1, x3
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_exchange32
    1:  ldaxr   w3, [x0]
        cmp     w3, w1
        b.ne    2f
        stlxr   w4, w2, [x0]
        cbnz    w4, 1b
    2:  mov     x1, x3
        mov     x0, #0
        ret
    pagemend_guard_entry pagemend_guard_exchange64
    1:  ldaxr   x3, [x0]
        cmp     x3, x1
        b.ne    2f
        stlxr   w4, x2, [x0]
        cbnz    w4, 1b
    2:  mov     x1, x3
        mov     x0, #0
        ret
    // Reached only from `land`: (x0 one, x1 address of the fault)
    pagemend_guard_mark pagemend_guard_refuse
        mov     x0, #1
        ret
    pagemend_guard_mark pagemend_guard_end

    .cfi_endproc
    .purgem pagemend_guard_entry
    .purgem pagemend_guard_mark
    .popsection
    "#
);

/// Whether the exact copy is also the fast one: never, it goes byte by byte.
pub(super) fn exact_is_fast(_len: usize) -> bool {
    false
}

pub(super) fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.pc as usize
}

pub(super) fn set_program_counter(context: &mut libc::ucontext_t, pc: usize) {
    context.uc_mcontext.pc = pc as u64;
}

/// Sets the register of a function's second return value.
pub(super) fn set_second_result(context: &mut libc::ucontext_t, value: usize) {
    context.uc_mcontext.regs[1] = value as u64;
}
