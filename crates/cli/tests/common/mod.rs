//! What the tests of several commands need: the program under a filter, and its JSON held against
//! the document that describes it.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

mod documented;
pub(crate) use documented::check_documented;

/// Both ways to a userfaultfd: the system call, and `USERFAULTFD_IOC_NEW` on the device.
pub(crate) const USERFAULTFD: [(i64, Option<u64>); 2] = [
    (libc::SYS_userfaultfd, None),
    (libc::SYS_ioctl, Some(0xaa00)),
];

/// Makes each of these calls, with this second argument if one is given, fail with EPERM.
pub(crate) fn refuse(command: &mut Command, calls: &[(i64, Option<u64>)]) {
    let rules = calls.iter().map(|&(call, argument)| {
        let conditions = argument.map(|value| {
            let equal = SeccompCmpOp::Eq;
            SeccompCondition::new(1, SeccompCmpArgLen::Dword, equal, value).unwrap()
        });
        let rule = conditions.map(|condition| SeccompRule::new(vec![condition]).unwrap());
        (call, rule.into_iter().collect())
    });
    let filter = SeccompFilter::new(
        rules.collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    // SAFETY: between fork and exec only prctl and seccomp are called, on a program built before.
    unsafe {
        command.pre_exec(move || {
            apply_filter(&program).map_err(|_| io::Error::from_raw_os_error(libc::EPERM))
        });
    }
}
