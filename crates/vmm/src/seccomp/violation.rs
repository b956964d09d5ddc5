//! The last words of a process in which a thread made a call that its filter does not allow.

use std::cell::Cell;
use std::sync::OnceLock;

use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::errno;
use vmm_sys_util::signal::register_signal_handler;

use super::Task;

/// The signal of a forbidden call cannot be handled.
#[derive(Clone, Debug, thiserror::Error)]
#[error("SIGSYS cannot be handled")]
pub struct HandlerError(#[source] errno::Error);

thread_local! {
    /// Constant and without a destructor, so that reading it in a signal handler is one load.
    static TASK: Cell<&'static str> = const { Cell::new("unnamed") };
}

/// The calling thread's task, for the report.
pub(super) fn name_thread(task: Task) {
    TASK.set(task.name());
}

/// Has a forbidden call end the process with a line that names it.
pub(super) fn report() -> Result<(), HandlerError> {
    static DONE: OnceLock<Result<(), HandlerError>> = OnceLock::new();
    DONE.get_or_init(|| register_signal_handler(libc::SIGSYS, on_sigsys).map_err(HandlerError))
        .clone()
}

/// Where `siginfo_t` has the call's number, in units of `int`
/// (include/uapi/asm-generic/siginfo.h, `_sigsys`).
const SI_SYSCALL: usize = 6;

/// Async-signal-safe: it writes, and lets the default action end the process.
extern "C" fn on_sigsys(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a whole siginfo.
    let number = unsafe { *info.cast::<c_int>().add(SI_SYSCALL) };
    write("pagemend: the thread ");
    write(TASK.get());
    write(" made system call ");
    let mut digits = [0; 10];
    write(decimal(number.unsigned_abs(), &mut digits));
    write(", which its seccomp filter does not allow; --seccomp log finds all such calls\n");
    // SAFETY: these calls are async-signal-safe and allowed to every thread.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

fn write(text: &str) {
    // SAFETY: the bytes of a string. There is nobody to tell that stderr is gone.
    unsafe { libc::write(libc::STDERR_FILENO, text.as_ptr().cast(), text.len()) };
}

fn decimal(mut number: u32, digits: &mut [u8; 10]) -> &str {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&digits[start..]).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_write_them() {
        for number in [0, 7, 10, 435, u32::MAX] {
            assert_eq!(decimal(number, &mut [0; 10]), number.to_string());
        }
    }
}
