//! The handler that a process had before gets what is not for the mender, as the kernel would have
//! called it. Each test has a process of its own: handlers are the process's.

use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};

use pagemend_core::address::PageSize;
use pagemend_core::event::Step;
use pagemend_linux::MemoryKind;

use crate::altstack::SmallStack;
use crate::child;
use crate::guest::{Guest, MIB, gpa, pattern};

const LOST: u64 = 2 * MIB + 0x3000;

static CALLS: AtomicU32 = AtomicU32::new(0);
/// What the last call was told: `si_addr`.
static ADDRESS: AtomicU64 = AtomicU64::new(0);
/// What the next call loads.
static WORD: AtomicU64 = AtomicU64::new(0);

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn install(handler: usize, flags: libc::c_int, blocked: Option<libc::c_int>) {
    // SAFETY: an all-zero sigaction is a valid one, completed below; the handler is a function.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        if let Some(blocked) = blocked {
            libc::sigaddset(&mut action.sa_mask, blocked);
        }
        assert_eq!(libc::sigaction(libc::SIGBUS, &action, ptr::null_mut()), 0);
    }
}

fn is_blocked(signal: libc::c_int) -> bool {
    // SAFETY: the set is a local, which the call fills.
    unsafe {
        let mut now: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), &mut now);
        libc::sigismember(&now, signal) == 1
    }
}

/// Puts memory where there was none, so that the access works when it is executed again.
extern "C" fn give_memory(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's siginfo has an address for a fault.
    let address = unsafe { (*info).si_addr() } as u64;
    ADDRESS.store(address, Ordering::Relaxed);
    CALLS.fetch_add(1, Ordering::Relaxed);
    assert!(is_blocked(libc::SIGUSR1));
    let page = (address & !0xfff) as *mut libc::c_void;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: over the page of a file mapping that has no bytes.
    unsafe { libc::mmap(page, 4096, access, flags, -1, 0) };
}

/// A mapping of one page behind the end of its file.
fn beyond_the_end() -> *const u64 {
    // SAFETY: a fresh mapping of an empty file of ours, which stays.
    unsafe {
        let file = libc::memfd_create(c"empty".as_ptr(), 0);
        let shared = libc::MAP_SHARED;
        let at = libc::mmap(ptr::null_mut(), 4096, libc::PROT_READ, shared, file, 0);
        assert_ne!(at, libc::MAP_FAILED);
        at.cast()
    }
}

fn load(word: *const u64) -> u64 {
    // SAFETY: mapped; what happens at the access is the test's subject.
    unsafe { word.read_volatile() }
}

fn mends(guest: &Guest) {
    guest.fail(LOST);
    guest.check_all_but(&[LOST]);
}

#[test]
fn it_gets_a_fault_outside_guest_memory_with_its_mask_and_may_repair_it() {
    let name = "chain::it_gets_a_fault_outside_guest_memory_with_its_mask_and_may_repair_it";
    child::passes(name, || {
        let handler: Handler = give_memory;
        install(handler as usize, libc::SA_SIGINFO, Some(libc::SIGUSR1));
        let guest = Guest::huge(8 * MIB);
        let word = beyond_the_end();
        assert_eq!(load(word.wrapping_add(3)), 0);
        assert_eq!(ADDRESS.load(Ordering::Relaxed), word as u64 + 24);
        assert_eq!(CALLS.load(Ordering::Relaxed), 1);
        assert!(!is_blocked(libc::SIGUSR1), "the mask is as it was");
        mends(&guest);
        assert_eq!(
            CALLS.load(Ordering::Relaxed),
            1,
            "that was none of its faults"
        );
        drop(guest);
        assert_eq!(load(beyond_the_end()), 0);
        assert_eq!(CALLS.load(Ordering::Relaxed), 2, "it is back");
    });
}

#[test]
fn it_gets_a_fault_in_guest_memory_that_is_no_memory_failure() {
    let name = "chain::it_gets_a_fault_in_guest_memory_that_is_no_memory_failure";
    child::passes(name, || {
        let handler: Handler = give_memory;
        install(handler as usize, libc::SA_SIGINFO, Some(libc::SIGUSR1));
        let guest = Guest::new(MemoryKind::Shmem, 4 * MIB);
        let file = guest.memory.file().unwrap();
        rustix::fs::ftruncate(file, 2 * MIB).unwrap();
        assert_eq!(guest.load(3 * MIB), 0);
        assert_eq!(CALLS.load(Ordering::Relaxed), 1);
        assert_eq!(guest.pagemend.totals().foreign, 1);
        assert_eq!(guest.recorded(), [0; 0]);
    });
}

extern "C" fn count(_: libc::c_int) {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_plain_handler_gets_a_signal_that_somebody_sent() {
    let name = "chain::a_plain_handler_gets_a_signal_that_somebody_sent";
    child::passes(name, || {
        let handler: extern "C" fn(libc::c_int) = count;
        install(handler as usize, 0, None);
        let guest = Guest::huge(8 * MIB);
        // SAFETY: a signal to this thread, which has a handler.
        unsafe { libc::raise(libc::SIGBUS) };
        assert_eq!(CALLS.load(Ordering::Relaxed), 1);
        mends(&guest);
    });
}

/// Whether a SIGBUS waits to be delivered to a thread.
fn is_pending(thread: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
    let pending = u64::from_str_radix(pending.unwrap().trim(), 16).unwrap();
    pending & 1 << (libc::SIGBUS - 1) != 0
}

#[test]
fn signals_that_come_while_one_is_handled_do_not_pile_up_on_its_stack() {
    let name = "chain::signals_that_come_while_one_is_handled_do_not_pile_up_on_its_stack";
    child::passes(name, || {
        let handler: extern "C" fn(libc::c_int) = count;
        install(handler as usize, 0, None);
        let (claimed, is_claimed) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let may_go = Mutex::new(may_go);
        let kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
        let guest = Guest::build(
            kind,
            8 * MIB,
            |region| region,
            |builder| {
                builder.listen("holds it up", move |event| {
                    if matches!(event.step, Step::Claim) {
                        claimed.send(()).unwrap();
                        may_go.lock().unwrap().recv().unwrap();
                    }
                })
            },
        )
        .unwrap();
        guest.fail(LOST);
        std::thread::scope(|scope| {
            let (tell, told) = mpsc::channel();
            let guest = &guest;
            let toucher = scope.spawn(move || {
                // SAFETY: the call takes nothing and cannot fail.
                tell.send(unsafe { libc::gettid() }).unwrap();
                guest.load(LOST + 0x1000)
            });
            let thread = told.recv().unwrap();
            is_claimed.recv().unwrap();
            // It waits in the handler. What is sent to it now must not be handled on top of that.
            // SAFETY: a signal to a thread of this process, which has a handler for it.
            let sent =
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGBUS) };
            assert_eq!(sent, 0);
            while !is_pending(thread) && CALLS.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let nested = CALLS.load(Ordering::Relaxed);
            go.send(()).unwrap();
            assert_eq!(nested, 0);
            assert_eq!(toucher.join().unwrap(), pattern(gpa(LOST + 0x1000)));
        });
        assert_eq!(CALLS.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn rusts_own_handler_does_not_take_ours_away_when_somebody_sends_a_signal() {
    let name = "chain::rusts_own_handler_does_not_take_ours_away_when_somebody_sends_a_signal";
    child::passes(name, || {
        let guest = Guest::huge(8 * MIB);
        // SAFETY: Rust's handler takes it for a fault, sets the default action and returns.
        unsafe { libc::raise(libc::SIGBUS) };
        mends(&guest);
    });
}

#[test]
fn without_a_handler_a_signal_that_somebody_sent_ends_the_process_with_one_line() {
    let name =
        "chain::without_a_handler_a_signal_that_somebody_sent_ends_the_process_with_one_line";
    let said = child::dies(name, || {
        // SAFETY: the default action needs no handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        let _guest = Guest::huge(8 * MIB);
        // SAFETY: as above; this is the end.
        unsafe { libc::raise(libc::SIGBUS) };
    });
    let Some(said) = said else { return };
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("sent by a process"), "{said:?}");
}

#[test]
fn without_a_handler_a_fault_outside_guest_memory_ends_the_process_with_one_line() {
    let name =
        "chain::without_a_handler_a_fault_outside_guest_memory_ends_the_process_with_one_line";
    let said = child::dies(name, || {
        // SAFETY: the default action needs no handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        let _guest = Guest::huge(8 * MIB);
        load(beyond_the_end());
    });
    let Some(said) = said else { return };
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("no memory failure"), "{said:?}");
}

#[test]
fn a_signal_that_is_ignored_stays_ignored() {
    let name = "chain::a_signal_that_is_ignored_stays_ignored";
    child::passes(name, || {
        // SAFETY: ignoring needs no handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_IGN) };
        let guest = Guest::huge(8 * MIB);
        // SAFETY: it is ignored.
        unsafe { libc::raise(libc::SIGBUS) };
        mends(&guest);
    });
}

/// Loads from guest memory that is poisoned, as a crash reporter might.
extern "C" fn look(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let word = load(WORD.load(Ordering::Relaxed) as *const u64);
    ADDRESS.store(word, Ordering::Relaxed);
}

#[test]
fn a_fault_inside_it_is_mended_too() {
    let name = "chain::a_fault_inside_it_is_mended_too";
    child::passes(name, || {
        let handler: Handler = look;
        install(handler as usize, libc::SA_SIGINFO, None);
        let guest = Guest::huge(8 * MIB);
        guest.fail(LOST);
        WORD.store(guest.word(2 * MIB) as u64, Ordering::Relaxed);
        // Two frames of the kernel's at a time: more than the stack that Rust gives a thread.
        let _stack = SmallStack::new(64 << 10);
        // SAFETY: a signal to this thread, which has a handler.
        unsafe { libc::raise(libc::SIGBUS) };
        assert_eq!(ADDRESS.load(Ordering::Relaxed), pattern(gpa(2 * MIB)));
        guest.check_all_but(&[LOST]);
    });
}

/// A handler that leaves by a jump, as siglongjmp does: no caller of it is ever returned to.
#[cfg(target_arch = "x86_64")]
mod jumping {
    use super::*;

    // The second puts the registers back that a function has to keep, out of `gregs`, and returns
    // 77 from the first.
    std::arch::global_asm!(
        ".globl pagemend_test_load, pagemend_test_return",
        "pagemend_test_load: mov (%rdi), %rax",
        "ret",
        "pagemend_test_return: mov 32(%rdi), %r12",
        "mov 40(%rdi), %r13",
        "mov 48(%rdi), %r14",
        "mov 56(%rdi), %r15",
        "mov 80(%rdi), %rbp",
        "mov 88(%rdi), %rbx",
        "mov 120(%rdi), %rsp",
        "mov $77, %eax",
        "ret",
        options(att_syntax)
    );

    unsafe extern "C" {
        fn pagemend_test_load(word: *const u64) -> u64;
        fn pagemend_test_return(registers: *const libc::greg_t) -> !;
    }

    extern "C" fn jump(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the context of a thread inside `pagemend_test_load`, which has changed no
        // register that it has to keep. The mask is that of the interrupted code.
        unsafe {
            let to = &*context.cast::<libc::ucontext_t>();
            libc::pthread_sigmask(libc::SIG_SETMASK, &to.uc_sigmask, ptr::null_mut());
            pagemend_test_return(to.uc_mcontext.gregs.as_ptr());
        }
    }

    #[test]
    fn it_may_leave_by_a_jump() {
        child::passes("chain::jumping::it_may_leave_by_a_jump", || {
            let handler: Handler = jump;
            install(handler as usize, libc::SA_SIGINFO, Some(libc::SIGUSR1));
            let guest = Guest::huge(8 * MIB);
            for _ in 0..3 {
                // SAFETY: an address that is mapped, if without bytes.
                assert_eq!(unsafe { pagemend_test_load(beyond_the_end()) }, 77);
                assert!(!is_blocked(libc::SIGUSR1), "the mask is as it was");
            }
            mends(&guest);
            // SAFETY: a word of guest memory that is lost.
            assert_eq!(unsafe { pagemend_test_load(guest.word(LOST)) }, 77);
        });
    }
}
