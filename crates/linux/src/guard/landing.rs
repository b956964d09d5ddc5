//! Where an interrupted guarded access continues: the link between the SIGBUS intake and the
//! assembly.
//!
//! The guarded instructions are one stretch of text in three parts, each with its landing pad:
//!
//! | part | pad |
//! |---|---|
//! | wide copy | the exact copy of what is left, which meets the lost byte itself |
//! | exact copy, touch | return, with the number of bytes left |
//! | loads, stores, exchanges | return, with the status "refused" |
//!
//! So a wide copy faults twice over a lost frame. That is what makes the count of copied bytes
//! exact without making healthy copies slow.

#[cfg(target_arch = "aarch64")]
use super::aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use super::x86_64 as arch;

// Marks in the assembly: only their addresses mean anything. No mark is a function that is called
// elsewhere: link-time optimisation renames a symbol that is declared in two ways.
unsafe extern "C" {
    static pagemend_guard_wide_part: u8;
    static pagemend_guard_exact_part: u8;
    static pagemend_guard_resume_exact: u8;
    static pagemend_guard_stop: u8;
    static pagemend_guard_single_part: u8;
    static pagemend_guard_refuse: u8;
    static pagemend_guard_end: u8;
}

macro_rules! address_of {
    ($mark:ident) => {
        (&raw const $mark).addr()
    };
}

/// Where an interrupted access continues.
enum Pad {
    /// In guarded code again, with its registers as they are.
    Resume(usize),
    /// On its way back to the caller, with the fault address as the second return value.
    Return(usize),
}

/// The landing pad for an access interrupted at `pc`, or `None` outside guarded code.
fn pad_for(pc: usize) -> Option<Pad> {
    if !(address_of!(pagemend_guard_wide_part)..address_of!(pagemend_guard_end)).contains(&pc) {
        None
    } else if pc < address_of!(pagemend_guard_exact_part) {
        Some(Pad::Resume(address_of!(pagemend_guard_resume_exact)))
    } else if pc < address_of!(pagemend_guard_single_part) {
        Some(Pad::Return(address_of!(pagemend_guard_stop)))
    } else {
        Some(Pad::Return(address_of!(pagemend_guard_refuse)))
    }
}

/// True where the context was interrupted inside guarded code.
#[cfg(test)]
pub(super) fn is_guarded(context: &libc::ucontext_t) -> bool {
    pad_for(arch::program_counter(context)).is_some()
}

/// Redirects an interrupted guarded access to its landing pad, which makes it return an error that
/// carries `fault_address`. Returns false, and changes nothing, where the context is not in guarded
/// code.
///
/// Async-signal-safe. One access may fault, and land, twice: see the table above.
pub(crate) fn land(context: &mut libc::ucontext_t, fault_address: usize) -> bool {
    match pad_for(arch::program_counter(context)) {
        None => return false,
        Some(Pad::Resume(pad)) => arch::set_program_counter(context, pad),
        Some(Pad::Return(pad)) => {
            arch::set_second_result(context, fault_address);
            arch::set_program_counter(context, pad);
        }
    }
    true
}
