//! Checking and writing one page in a way that survives its loss: a routine that is left, wherever in it a signal comes. And the handler that makes it so.

use std::arch::global_asm;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of a page.
pub(crate) const PAGE: usize = 4096;

/// What one byte further makes of a word. An odd factor makes words one-to-one with their places.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// What one round later makes of it.
const ROUND: u64 = 0xd6e8_feb8_6659_fd93;

/// What belongs at an address after a round, but for its lowest bit, which is always set: memory that was never written reads zero, and no word does.
fn product(address: usize, round: u64) -> u64 {
    (address as u64)
        .wrapping_mul(FACTOR)
        .wrapping_add(round.wrapping_mul(ROUND))
}

/// The word that belongs at an address after a round.
pub(crate) fn word(address: usize, round: u64) -> u64 {
    product(address, round) | 1
}

global_asm!(
    ".globl pagemend_walker_check",
    "pagemend_walker_check:",
    "xor eax, eax",
    "lea r8, [rdi + 4096]",
    "movabs r9, {step}",
    "2:",
    "mov r10, rsi",
    "or r10, 1",
    "cmp r10, [rdi]",
    "jne 4f",
    "3:",
    "test rcx, rcx",
    "jz 5f",
    "mov r11, rdx",
    "or r11, 1",
    "mov [rdi], r11",
    "5:",
    "add rsi, r9",
    "add rdx, r9",
    "add rdi, 8",
    "cmp rdi, r8",
    "jne 2b",
    "ret",
    "4:",
    "inc rax",
    "jmp 3b",
    ".globl pagemend_walker_lost",
    "pagemend_walker_lost:",
    "mov rax, -1",
    "ret",
    step = const (8u64.wrapping_mul(FACTOR)) as i64,
);

unsafe extern "C" {
    /// Compares a page's words with what they are expected to be, and writes the next ones if `write` is not zero. Gives the number of wrong ones, or all ones if the page is gone.
    fn pagemend_walker_check(page: usize, expected: u64, next: u64, write: u64) -> u64;
    fn pagemend_walker_lost();
}

/// What became of a page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Found {
    /// It could be read; so many of its words were wrong.
    Wrong(u64),
    /// A touch of it gave a signal.
    Gone,
}

/// Checks that a page has the words of `round`.
///
/// # Safety
/// The page is mapped, and no Rust reference goes into it.
pub(crate) unsafe fn read(page: usize, round: u64) -> Found {
    let expected = product(page, round);
    // SAFETY: the routine only reads the page, and is left if that gives a signal.
    found(unsafe { pagemend_walker_check(page, expected, 0, 0) })
}

/// Checks that a page has the words of `round`, and writes those of the next.
///
/// # Safety
/// The page is mapped and writable, and no Rust reference goes into it.
pub(crate) unsafe fn advance(page: usize, round: u64) -> Found {
    let (expected, next) = (product(page, round), product(page, round + 1));
    // SAFETY: the routine touches the page alone, which is the caller's, and is left if that gives a signal.
    found(unsafe { pagemend_walker_check(page, expected, next, 1) })
}

fn found(answer: u64) -> Found {
    match answer {
        u64::MAX => Found::Gone,
        wrong => Found::Wrong(wrong),
    }
}

/// Signals that can be told. A page gives one when it is lost and is left alone then, so these are many huge pages.
const ROOM: usize = 1 << 16;
static SIGNALS: [AtomicU64; ROOM] = [const { AtomicU64::new(0) }; ROOM];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The signals so far: the page of each, and its code.
pub(crate) fn signals() -> Vec<(usize, i32)> {
    let count = COUNT.load(Ordering::Acquire).min(ROOM);
    let taken = SIGNALS[..count]
        .iter()
        .map(|slot| slot.load(Ordering::Acquire));
    // A slot that is counted and still empty belongs to a handler that is at it: it is told next time.
    taken
        .take_while(|signal| *signal != 0)
        .map(|signal| {
            (
                (signal as usize) & !(PAGE - 1),
                (signal as usize & (PAGE - 1)) as i32,
            )
        })
        .collect()
}

/// Takes SIGBUS from here on.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: an all-zero sigaction is a valid one.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    action.sa_sigaction = handler as *const () as usize;
    // SAFETY: the handler has the signature of SA_SIGINFO and does only what a handler may.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands a siginfo that is valid while the handler runs; si_addr is set for SIGBUS.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    let slot = COUNT.fetch_add(1, Ordering::AcqRel);
    if let Some(slot) = SIGNALS.get(slot) {
        let told = (address & !(PAGE - 1)) as u64 | (code as u64 & (PAGE as u64 - 1));
        slot.store(told, Ordering::Release);
    }
    if code == libc::BUS_MCEERR_AO {
        return;
    }
    // SAFETY: the context is the kernel's, and only this handler uses it meanwhile.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let here = registers[libc::REG_RIP as usize] as usize;
    let (from, lost) = (
        pagemend_walker_check as *const () as usize,
        pagemend_walker_lost as *const () as usize,
    );
    if (from..lost).contains(&here) {
        registers[libc::REG_RIP as usize] = lost as i64;
    } else {
        // The walker itself is hit: let it die of it, which the kernel's panic tells.
        // SAFETY: resetting a signal to its default is allowed in a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(4096))]
    struct Page([u64; PAGE / 8]);

    fn filled(round: u64) -> Box<Page> {
        let mut page = Box::new(Page([0; PAGE / 8]));
        let base = page.0.as_ptr() as usize;
        for (index, value) in page.0.iter_mut().enumerate() {
            *value = word(base + index * 8, round);
        }
        page
    }

    #[test]
    fn a_page_goes_from_round_to_round_and_wrong_words_are_counted() {
        let mut page = filled(3);
        let base = page.0.as_mut_ptr() as usize;
        // SAFETY: the page is the test's own, and is not used through the box meanwhile.
        unsafe {
            assert_eq!(read(base, 3), Found::Wrong(0));
            assert_eq!(advance(base, 3), Found::Wrong(0));
            assert_eq!(advance(base, 4), Found::Wrong(0));
            assert_eq!(read(base, 4), Found::Wrong(512));
        }
        page.0[7] ^= 1 << 40;
        page.0[511] = 0;
        // SAFETY: as above.
        assert_eq!(unsafe { advance(base, 5) }, Found::Wrong(2));
        // SAFETY: as above. What was wrong is written, and counted once.
        assert_eq!(unsafe { read(base, 6) }, Found::Wrong(0));
    }

    #[test]
    fn a_page_that_is_gone_gives_a_signal_with_its_address_and_is_left() {
        install().unwrap();
        let file = rustix::fs::memfd_create("gone", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        // SAFETY: a mapping of a file without a byte, where the kernel chooses.
        let page = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                PAGE,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::SHARED,
                &file,
                0,
            )
        }
        .unwrap() as usize;
        // SAFETY: the mapping is the test's own.
        assert_eq!(unsafe { advance(page, 0) }, Found::Gone);
        assert_eq!(signals(), [(page, libc::BUS_ADRERR)]);
    }
}
