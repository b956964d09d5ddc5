//! What this process is allowed to do, because a host that can mend may run a process that cannot.

use serde::Serialize;

use super::tree::Tree;

/// Bit of CAP_SYS_PTRACE in include/uapi/linux/capability.h.
const CAP_SYS_PTRACE: u32 = 19;
/// Bit of CAP_SYS_ADMIN there.
const CAP_SYS_ADMIN: u32 = 21;

const STATUS: &str = "/proc/self/status";

/// The seccomp mode of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// No restriction.
    Off,
    /// read, write, exit and sigreturn only.
    Strict,
    /// A filter program decides.
    Filter,
}

/// Privileges and restrictions of this process; `None` where /proc does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Whether CAP_SYS_ADMIN is in effect.
    pub cap_sys_admin: Option<bool>,
    /// Whether CAP_SYS_PTRACE is in effect.
    pub cap_sys_ptrace: Option<bool>,
    /// Which system calls are filtered.
    pub seccomp: Option<Seccomp>,
}

impl Process {
    pub(super) fn read(tree: &Tree<'_>) -> Self {
        let Some(status) = tree.text(STATUS) else {
            return Self::default();
        };
        let field = |name: &str| {
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            if value.is_none() {
                tree.complain(STATUS, format!("no field {name}"));
            }
            value.map(str::trim)
        };
        let number = |name: &str, radix| {
            let text = field(name)?;
            let number = u64::from_str_radix(text, radix).ok();
            if number.is_none() {
                tree.complain(STATUS, format!("{name} is {text:?}"));
            }
            number
        };
        let effective = number("CapEff", 16);
        let capability = |bit: u32| effective.map(|set| set >> bit & 1 == 1);
        Self {
            cap_sys_admin: capability(CAP_SYS_ADMIN),
            cap_sys_ptrace: capability(CAP_SYS_PTRACE),
            seccomp: match number("Seccomp", 10) {
                Some(0) => Some(Seccomp::Off),
                Some(1) => Some(Seccomp::Strict),
                Some(2) => Some(Seccomp::Filter),
                _ => None,
            },
        }
    }
}
