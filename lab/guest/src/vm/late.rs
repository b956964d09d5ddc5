//! A VMM that hears of errors only by touch, although it asks to hear of them early: the kernel is made to say yes and do nothing. QEMU has no option for it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Offsets in `struct seccomp_data`: the system call's number, and the lower half of its first argument.
const NUMBER: u32 = 0;
const FIRST: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_UNLESS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn step(code: u16, unless: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: unless,
        k,
    }
}

/// `prctl(PR_MCE_KILL, …)` gives 0 and is not done; everything else is.
static FILTER: [libc::sock_filter; 6] = [
    step(LOAD, 0, NUMBER),
    step(JUMP_UNLESS, 3, libc::SYS_prctl as u32),
    step(LOAD, 0, FIRST),
    step(JUMP_UNLESS, 1, libc::PR_MCE_KILL as u32),
    step(RETURN, 0, libc::SECCOMP_RET_ERRNO),
    step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
];

/// Has the program that `command` starts hear of errors only by touch.
pub(crate) fn make_late(command: &mut Command) {
    // SAFETY: between fork and exec there is one system call, on a static; nothing is allocated or locked.
    unsafe { command.pre_exec(install) };
}

fn install() -> io::Result<()> {
    let program = libc::sock_fprog {
        len: FILTER.len() as u16,
        filter: (&raw const FILTER).cast_mut().cast(),
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
