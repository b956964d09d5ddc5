//! A VMM that hears of errors only by touch, although it asks to hear of them early: the kernel is made to say yes and do nothing. QEMU has no option for it.

use crate::seccomp::{self, NUMBER, answer, argument, load, unless};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `prctl(PR_MCE_KILL, …)` gives 0 and is not done; everything else is.
static FILTER: [libc::sock_filter; 6] = [
    load(NUMBER),
    unless(libc::SYS_prctl as u32, 3),
    load(argument(0)),
    unless(libc::PR_MCE_KILL as u32, 1),
    answer(libc::SECCOMP_RET_ERRNO),
    answer(libc::SECCOMP_RET_ALLOW),
];

/// Has the program that `command` starts hear of errors only by touch.
pub(crate) fn make_late(command: &mut Command) {
    // SAFETY: between fork and exec there is one system call, on a static; nothing is allocated or locked.
    unsafe { command.pre_exec(|| seccomp::install(&FILTER)) };
}
