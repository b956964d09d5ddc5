//! The one line that a process leaves on stderr before a fault that nobody handles ends it.
//!
//! Built in a buffer on the stack, because it is written from a signal handler.

use pagemend_core::address::{Gpa, Hva};

struct Line {
    bytes: [u8; 192],
    len: usize,
}

impl Line {
    const fn new() -> Self {
        Self {
            bytes: [0; 192],
            len: 0,
        }
    }

    fn text(mut self, text: &str) -> Self {
        for byte in text.bytes() {
            if let Some(place) = self.bytes.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
        self
    }

    fn hex(self, value: u64) -> Self {
        let mut line = self.text("0x");
        let digits = (u64::BITS - value.leading_zeros()).div_ceil(4).max(1);
        for place in (0..digits).rev() {
            let digit = (value >> (4 * place)) & 0xf;
            let text = "0123456789abcdef".get(digit as usize..digit as usize + 1);
            line = line.text(text.unwrap_or("?"));
        }
        line
    }

    fn write(self) {
        let line = self.text("\n");
        // SAFETY: the first `len` bytes of a local buffer.
        unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.len) };
    }
}

/// A thread that is neither a vCPU's nor in guarded access touched a lost frame.
pub(super) fn lost(address: Hva, gpa: Gpa) {
    Line::new()
        .text("pagemend: guest memory at ")
        .hex(gpa.get())
        .text(" (")
        .hex(address.get())
        .text(") is lost, and the thread that touched it did so without guarded access")
        .write();
}

/// The mender's own thread touched a poisoned page: in a hook, or in an event listener.
pub(super) fn mender_thread(address: Hva) {
    Line::new()
        .text("pagemend: a hook or listener touched poisoned guest memory at ")
        .hex(address.get())
        .text(" without guarded access")
        .write();
}

/// The default action follows.
pub(super) fn default_action(info: &libc::siginfo_t) {
    // SAFETY: where the signal was sent and carries no address, the bytes are still there to read.
    let address = unsafe { info.si_addr() } as u64;
    let line = Line::new().text("pagemend: SIGBUS");
    match info.si_code {
        ..=0 => line.text(", sent by a process"),
        code => line
            .text(" code ")
            .hex(code as u64)
            .text(" at ")
            .hex(address),
    }
    .text(": no memory failure that can be mended; taking the default action")
    .write();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &Line) -> &str {
        std::str::from_utf8(&line.bytes[..line.len]).unwrap()
    }

    #[test]
    fn numbers_are_written_as_people_write_them() {
        for value in [0, 0xf, 0x10, 0xdead_beef, u64::MAX] {
            assert_eq!(text(&Line::new().hex(value)), format!("{value:#x}"));
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let line = Line::new().text(&"x".repeat(500));
        assert_eq!(line.len, 192);
    }
}
