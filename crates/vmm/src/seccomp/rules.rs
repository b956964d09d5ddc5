//! The system calls of each kind of thread. Whatever is not here, it cannot do.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition as Condition,
    SeccompRule,
};

use super::Task;

/// One thing that a thread may do.
#[derive(Clone, Copy)]
enum Allow {
    /// This call.
    Call(i64),
    /// This call, where these bits of this argument have this value.
    Where(i64, u8, u64, u64),
}
use Allow::{Call, Where};

/// An ioctl of these, by the letter in its number (include/uapi/asm-generic/ioctl.h).
const fn ioctls_of(letter: u64) -> Allow {
    Where(libc::SYS_ioctl, 1, 0xff00, letter << 8)
}
/// KVM's letter.
const KVM: Allow = ioctls_of(0xae);
/// userfaultfd's letter.
const USERFAULTFD: Allow = ioctls_of(0xaa);
/// The letter of terminals.
const TERMINAL: Allow = ioctls_of(0x54);

/// An open that makes no file and empties none.
const OPEN: Allow = {
    /// `__O_TMPFILE` (include/uapi/asm-generic/fcntl.h), without the flag that O_TMPFILE adds.
    const TMPFILE: u64 = 0o20_000_000;
    let makes = libc::O_CREAT as u64 | libc::O_TRUNC as u64 | TMPFILE;
    Where(libc::SYS_openat, 2, makes, 0)
};

/// What any Rust thread does: memory, waiting, its stack, its signals, the clock, its end. The
/// SIGBUS handler's calls are among them, because any thread may meet a fault.
const EVERY: &[Allow] = &[
    Call(libc::SYS_brk),
    Where(libc::SYS_mmap, 2, libc::PROT_EXEC as u64, 0),
    Where(libc::SYS_mprotect, 2, libc::PROT_EXEC as u64, 0),
    Call(libc::SYS_munmap),
    Call(libc::SYS_mremap),
    Call(libc::SYS_madvise),
    Call(libc::SYS_futex),
    Call(libc::SYS_sched_yield),
    Call(libc::SYS_getrandom),
    Call(libc::SYS_clock_gettime),
    Call(libc::SYS_read),
    Call(libc::SYS_write),
    Call(libc::SYS_writev),
    Call(libc::SYS_close),
    // Where debug assertions are on, std asks before a close whether there is anything to close.
    Where(libc::SYS_fcntl, 1, u64::MAX, libc::F_GETFD as u64),
    Call(libc::SYS_restart_syscall),
    Call(libc::SYS_rt_sigreturn),
    Call(libc::SYS_rt_sigprocmask),
    Call(libc::SYS_rt_sigaction),
    Call(libc::SYS_sigaltstack),
    Call(libc::SYS_getpid),
    Call(libc::SYS_gettid),
    Call(libc::SYS_tgkill),
    Call(libc::SYS_exit),
    Call(libc::SYS_exit_group),
];

/// What a thread needs whose own threads begin under its filter.
const STARTS_THREADS: &[Allow] = &[
    Call(libc::SYS_clone3),
    Call(libc::SYS_set_robust_list),
    Call(libc::SYS_rseq),
    Call(libc::SYS_sched_getaffinity),
    Where(libc::SYS_prctl, 0, u64::MAX, libc::PR_SET_NAME as u64),
];

/// What loading the payload again takes, and putting KVM's chips back.
const RESETS: &[Allow] = &[
    KVM,
    OPEN,
    Call(libc::SYS_fstat),
    Call(libc::SYS_statx),
    Call(libc::SYS_lseek),
];

/// Bytes over a socket that is connected already.
const TALKS: &[Allow] = &[
    Call(libc::SYS_recvfrom),
    Call(libc::SYS_sendto),
    Call(libc::SYS_poll),
    Call(libc::SYS_ppoll),
];

const VCPU: &[Allow] = &[
    KVM,
    // The serial ports' outputs.
    Call(libc::SYS_sendto),
    // Its call out of the guest, when it has been heard.
    Call(libc::SYS_rt_sigpending),
    Call(libc::SYS_rt_sigtimedwait),
];

const MENDER: &[Allow] = &[
    USERFAULTFD,
    Call(libc::SYS_poll),
    Call(libc::SYS_ppoll),
    // Salvage, and room in the files of new memory.
    Call(libc::SYS_pread64),
    Call(libc::SYS_pwrite64),
    Call(libc::SYS_fallocate),
    Call(libc::SYS_ftruncate),
    Call(libc::SYS_memfd_create),
    // Making the new memory like the old, and seeing what came of it.
    Call(libc::SYS_mbind),
    Call(libc::SYS_get_mempolicy),
    Call(libc::SYS_move_pages),
    Call(libc::SYS_mincore),
    Call(libc::SYS_mlock2),
    // Emulated errors that nobody has touched are signalled as the kernel would.
    Call(libc::SYS_rt_tgsigqueueinfo),
];

const API: &[Allow] = &[
    USERFAULTFD,
    Call(libc::SYS_accept4),
    Call(libc::SYS_setsockopt),
    Call(libc::SYS_shutdown),
    // The guest's frame in /proc/self/pagemap, for corrupt-pfn.
    Call(libc::SYS_pread64),
];

const MAIN: &[Allow] = &[
    TERMINAL,
    // Signals that end the machine.
    Call(libc::SYS_pipe2),
    // The API's socket is taken away.
    Call(libc::SYS_shutdown),
    Call(libc::SYS_unlink),
    // The child that would put the terminal back.
    Call(libc::SYS_wait4),
    Call(libc::SYS_waitid),
    USERFAULTFD,
];

fn lists(task: Task) -> Vec<&'static [Allow]> {
    match task {
        Task::Vcpu => vec![EVERY, VCPU],
        Task::Mender => vec![EVERY, MENDER],
        Task::Input => vec![EVERY, TALKS],
        Task::Api => vec![EVERY, STARTS_THREADS, RESETS, TALKS, API],
        Task::Bell | Task::Events => vec![EVERY],
        Task::Main => vec![EVERY, STARTS_THREADS, RESETS, TALKS, MAIN],
    }
}

/// The rules for a thread, as the compiler wants them.
pub(super) fn of(task: Task) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules = BTreeMap::<i64, Vec<SeccompRule>>::new();
    for allow in lists(task).into_iter().flatten() {
        match *allow {
            // No rule is no condition.
            Call(call) => rules.insert(call, vec![]).map_or((), drop),
            Where(call, argument, mask, value) => {
                let condition = Condition::new(argument, Width::Dword, Is::MaskedEq(mask), value)?;
                let rule = SeccompRule::new(vec![condition])?;
                rules.entry(call).or_default().push(rule);
            }
        }
    }
    Ok(rules)
}
