//! Threads whose signals run on a small stack of their own.

use std::ptr;
use std::thread;

use crate::guest::{Guest, MIB, gpa, pattern};

/// A stack above a page that nobody may touch, and this thread's handlers on it.
pub(crate) struct SmallStack {
    map: *mut libc::c_void,
    len: usize,
    stack: *mut u8,
    size: usize,
}

const GUARD: usize = 4096;
const FILL: u8 = 0xa5;

impl SmallStack {
    pub(crate) fn new(size: usize) -> Self {
        let len = GUARD + size.next_multiple_of(4096);
        // SAFETY: a fresh mapping; its lowest page is made inaccessible.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let map = libc::mmap(ptr::null_mut(), len, access, flags, -1, 0);
            assert_ne!(map, libc::MAP_FAILED);
            assert_eq!(libc::mprotect(map, GUARD, libc::PROT_NONE), 0);
            // Directly above the guard, so that one byte too many is a fault.
            let stack = map.cast::<u8>().add(GUARD);
            stack.write_bytes(FILL, size);
            set(stack, 0, size);
            Self {
                map,
                len,
                stack,
                size,
            }
        }
    }

    /// The most that was ever used of it.
    fn used(&self) -> usize {
        // SAFETY: the stack is mapped, and no handler runs on it now.
        let bytes = unsafe { std::slice::from_raw_parts(self.stack, self.size) };
        self.size - bytes.iter().take_while(|byte| **byte == FILL).count()
    }
}

impl Drop for SmallStack {
    fn drop(&mut self) {
        set(ptr::null_mut(), libc::SS_DISABLE, 0);
        // SAFETY: no handler uses it any more.
        unsafe { libc::munmap(self.map, self.len) };
    }
}

fn set(stack: *mut u8, flags: libc::c_int, size: usize) {
    let stack = libc::stack_t {
        ss_sp: stack.cast(),
        ss_flags: flags,
        ss_size: size,
    };
    // SAFETY: memory that is only a signal stack, or none.
    let done = unsafe { libc::sigaltstack(&stack, ptr::null_mut()) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// What the kernel puts on the stack before a handler runs, at most.
fn frame() -> usize {
    // SAFETY: the call takes a number.
    let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    frame.max(libc::MINSIGSTKSZ)
}

#[test]
fn the_smallest_stack_and_four_kib_are_enough() {
    let guest = Guest::huge(8 * MIB);
    let lost = 2 * MIB + 0x3000;
    guest.fail(lost);
    let memory = guest.pagemend.memory("ram").unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let stack = SmallStack::new(frame() + 4096);
            assert_eq!(guest.load(2 * MIB), pattern(gpa(2 * MIB)));
            assert!(memory.load::<u64>(gpa(lost)).is_err());
            let used = stack.used();
            assert!(used > 512, "the handler ran elsewhere");
            let ours = used.saturating_sub(frame());
            eprintln!("{used} bytes used, of which the frame may be {}", frame());
            assert!(ours < 3 * 1024, "{ours} bytes");
        });
    });
    guest.check_all_but(&[lost]);
}
