//! The guarded instructions on x86-64, and what of an interrupted context they need.
//!
//! Every function is a leaf that leaves the stack alone, so a landing pad can return to the caller
//! of whichever function was interrupted. At every instruction that may fault, `rdi` and `rsi` are
//! at the next byte to copy and `rcx` counts the bytes left.
//!
//! `rep movsb` is the exact copy: the processor keeps its registers true to the byte (Intel SDM
//! volume 2, REP), and Linux relies on the same to recover from a machine check inside it
//! (`copy_mc_enhanced_fast_string` in arch/x86/lib/copy_mc_64.S).

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
    # (rdi to, rsi from, rdx bytes) -> (rax bytes left, rdx address of the fault)
    pagemend_guard_mark pagemend_guard_wide_part
    pagemend_guard_entry pagemend_guard_copy_wide
        mov     rcx, rdx
        cmp     rcx, 64
        jb      3f
        .balign 32
    2:  movups  xmm0, [rsi]
        movups  xmm1, [rsi + 16]
        movups  xmm2, [rsi + 32]
        movups  xmm3, [rsi + 48]
        movups  [rdi], xmm0
        movups  [rdi + 16], xmm1
        movups  [rdi + 32], xmm2
        movups  [rdi + 48], xmm3
        add     rsi, 64
        add     rdi, 64
        sub     rcx, 64
        cmp     rcx, 64
        jae     2b
    3:  cmp     rcx, 16
        jb      5f
    4:  movups  xmm0, [rsi]
        movups  [rdi], xmm0
        add     rsi, 16
        add     rdi, 16
        sub     rcx, 16
        cmp     rcx, 16
        jae     4b
    5:  cmp     rcx, 8
        jb      6f
        mov     rax, [rsi]
        mov     [rdi], rax
        add     rsi, 8
        add     rdi, 8
        sub     rcx, 8
    6:  test    rcx, rcx
        jz      8f
    7:  movzx   eax, byte ptr [rsi]
        mov     [rdi], al
        inc     rsi
        inc     rdi
        dec     rcx
        jnz     7b
    8:  xor     eax, eax
        ret

    # The same registers as the wide copy.
    pagemend_guard_mark pagemend_guard_exact_part
    pagemend_guard_entry pagemend_guard_copy_exact
        mov     rcx, rdx
    pagemend_guard_mark pagemend_guard_resume_exact
        rep movsb
    pagemend_guard_mark pagemend_guard_stop
        mov     rax, rcx
        ret

    # (rdi from, rsi unused, rdx bytes, a multiple of 64) -> (rax bytes left, rdx address)
    pagemend_guard_entry pagemend_guard_touch
        mov     rcx, rdx
        test    rcx, rcx
        jz      2f
    1:  movzx   eax, byte ptr [rdi]
        add     rdi, 64
        sub     rcx, 64
        jnz     1b
    2:  xor     eax, eax
        ret

    # (rdi address[, rsi value or expected[, rdx new]]) -> (rax zero, rdx value)
    pagemend_guard_mark pagemend_guard_single_part
    pagemend_guard_entry pagemend_guard_load8
        movzx   edx, byte ptr [rdi]
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_load16
        movzx   edx, word ptr [rdi]
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_load32
        mov     edx, [rdi]
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_load64
        mov     rdx, [rdi]
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_store8
        mov     [rdi], sil
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_store16
        mov     [rdi], si
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_store32
        mov     [rdi], esi
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_store64
        mov     [rdi], rsi
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_exchange8
        mov     rax, rsi
        lock cmpxchg [rdi], dl
        movzx   edx, al
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_exchange16
        mov     rax, rsi
        lock cmpxchg [rdi], dx
        movzx   edx, ax
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_exchange32
        mov     rax, rsi
        lock cmpxchg [rdi], edx
        mov     edx, eax
        xor     eax, eax
        ret
    pagemend_guard_entry pagemend_guard_exchange64
        mov     rax, rsi
        lock cmpxchg [rdi], rdx
        mov     rdx, rax
        xor     eax, eax
        ret
    # Reached only from `land`: (rax one, rdx address of the fault)
    pagemend_guard_mark pagemend_guard_refuse
        mov     eax, 1
        ret
    pagemend_guard_mark pagemend_guard_end

    .cfi_endproc
    .purgem pagemend_guard_entry
    .purgem pagemend_guard_mark
    .popsection
    "#
);

/// From here on `rep movsb` is at least as fast as the wide copy, where the processor has it fast.
const FAST_STRING_FROM: usize = 1024;

/// Whether the exact copy is also the fast one for `len` bytes.
pub(super) fn exact_is_fast(len: usize) -> bool {
    len >= FAST_STRING_FROM && std::arch::is_x86_feature_detected!("ermsb")
}

pub(super) fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
}

pub(super) fn set_program_counter(context: &mut libc::ucontext_t, pc: usize) {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] = pc as i64;
}

/// Sets the register of a function's second return value.
pub(super) fn set_second_result(context: &mut libc::ucontext_t, value: usize) {
    context.uc_mcontext.gregs[libc::REG_RDX as usize] = value as i64;
}
