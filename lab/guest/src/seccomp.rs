//! Filters on system calls, written by hand: a few steps each, which no library is needed for.

use std::io;

/// Where a filter finds the system call's number.
pub(crate) const NUMBER: u32 = 0;

/// Where a filter finds the lower half of an argument of the system call.
pub(crate) const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// Goes on with a word of what the filter is about.
pub(crate) const fn load(offset: u32) -> libc::sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset)
}

/// Leaves out so many steps unless the word is this one.
pub(crate) const fn unless(word: u32, skip: u8) -> libc::sock_filter {
    step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, word)
}

/// Ends the filter.
pub(crate) const fn answer(answer: u32) -> libc::sock_filter {
    step(libc::BPF_RET | libc::BPF_K, 0, answer)
}

const fn step(code: u32, unless: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: unless,
        k,
    }
}

/// Puts this thread, and what it starts from now on, under a filter. Allocates and locks nothing.
pub(crate) fn install(filter: &'static [libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which is as long as it says. Root needs no further promise.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
