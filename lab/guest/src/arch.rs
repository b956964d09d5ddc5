//! The one load and the one store that are allowed to fault, and how a signal handler recognises and leaves them. One block for each architecture.

use std::arch::global_asm;

#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl pagemend_lab_load",
    "pagemend_lab_load:",
    "mov rax, [rdi]",
    ".globl pagemend_lab_resume",
    "pagemend_lab_resume:",
    "ret",
    ".globl pagemend_lab_store",
    "pagemend_lab_store:",
    "mov [rdi], rsi",
    "ret",
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl pagemend_lab_load",
    "pagemend_lab_load:",
    "ldr x0, [x0]",
    ".globl pagemend_lab_resume",
    "pagemend_lab_resume:",
    "ret",
    ".globl pagemend_lab_store",
    "pagemend_lab_store:",
    "str x1, [x0]",
    "ret",
);

unsafe extern "C" {
    /// Reads the word at an address.
    pub(crate) fn pagemend_lab_load(address: usize) -> u64;
    /// Writes the word at an address.
    pub(crate) fn pagemend_lab_store(address: usize, word: u64);
    fn pagemend_lab_resume();
}

/// If the interrupted instruction is the load or the store, goes on after it and says so.
///
/// # Safety
/// `context` is what the kernel gave to a signal handler with `SA_SIGINFO`.
pub(crate) unsafe fn skip_probe(context: *mut libc::c_void) -> bool {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the caller vouches for the pointer, and only this handler uses it meanwhile.
    let machine = unsafe { &mut (*context).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    let counter = &mut machine.gregs[libc::REG_RIP as usize];
    #[cfg(target_arch = "aarch64")]
    let counter = &mut machine.pc;
    let here = *counter as usize;
    let ours = here == pagemend_lab_load as *const () as usize
        || here == pagemend_lab_store as *const () as usize;
    if ours {
        *counter = (pagemend_lab_resume as *const () as usize) as _;
    }
    ours
}

/// The arguments of a system call that a filter has stopped (`SECCOMP_RET_TRAP`), and the place of its answer.
///
/// # Safety
/// `context` is what the kernel gave to the handler of that SIGSYS, and outlives what is given.
pub(crate) unsafe fn stopped_call<'a>(context: *mut libc::c_void) -> ([u64; 4], &'a mut i64) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the caller vouches for the pointer, and only this handler uses it meanwhile.
    let machine = unsafe { &mut (*context).uc_mcontext };
    #[cfg(target_arch = "x86_64")]
    {
        let arguments = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10];
        let arguments = arguments.map(|register| machine.gregs[register as usize] as u64);
        (arguments, &mut machine.gregs[libc::REG_RAX as usize])
    }
    #[cfg(target_arch = "aarch64")]
    {
        let arguments = std::array::from_fn(|register| machine.regs[register]);
        // SAFETY: a register is as good as a signed one.
        (arguments, unsafe { &mut *machine.regs.as_mut_ptr().cast() })
    }
}
