//! What each kind of thread may ask of the kernel, so that a guest that has taken one over has
//! little to ask with. `docs/vmm.md` tells the reasons; `rules` is the list.

mod rules;
mod violation;

use std::str::FromStr;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

pub use violation::HandlerError;

/// What is done about a system call that a thread has no use for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Seccomp {
    /// The process ends, and says which call it was.
    #[default]
    On,
    /// The kernel's audit log has it, and it is done: for finding out what a filter lacks.
    Log,
    /// It is done.
    Off,
}

/// No such way.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is nothing to do about system calls: on, log or off")]
pub struct UnknownSeccomp(String);

impl FromStr for Seccomp {
    type Err = UnknownSeccomp;

    fn from_str(name: &str) -> Result<Self, UnknownSeccomp> {
        match name {
            "on" => Ok(Self::On),
            "log" => Ok(Self::Log),
            "off" => Ok(Self::Off),
            other => Err(UnknownSeccomp(other.to_owned())),
        }
    }
}

/// What a thread is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// It runs a vCPU.
    Vcpu,
    /// It is the library's, and mends.
    Mender,
    /// It calls vCPUs out of the guest when it is time.
    Bell,
    /// It feeds a serial port.
    Input,
    /// It takes connections to the API, or serves one.
    Api,
    /// It writes events into a file.
    Events,
    /// It is the one that steers the machine, once all others have been started.
    Main,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Vcpu,
        Self::Mender,
        Self::Bell,
        Self::Input,
        Self::Api,
        Self::Events,
        Self::Main,
    ];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vcpu => "vcpu",
            Self::Mender => "mender",
            Self::Bell => "bell",
            Self::Input => "input",
            Self::Api => "api",
            Self::Events => "events",
            Self::Main => "main",
        }
    }
}

/// Why a thread is not confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeccompError {
    /// The filter cannot be made, or the kernel does not take it.
    #[error("no seccomp filter for the thread {task}: --seccomp off does without")]
    Filter {
        /// The thread.
        task: &'static str,
        /// Why.
        source: seccompiler::Error,
    },
    /// Nobody would say which call it was.
    #[error(transparent)]
    Handler(#[from] HandlerError),
}

/// A filter that is made and not yet in force.
pub struct Filter {
    task: Task,
    /// None where there is to be none.
    program: Option<BpfProgram>,
}

/// The filter of a thread.
pub fn filter(task: Task, seccomp: Seccomp) -> Result<Filter, SeccompError> {
    let action = match seccomp {
        Seccomp::On => SeccompAction::Trap,
        Seccomp::Log => SeccompAction::Log,
        Seccomp::Off => {
            return Ok(Filter {
                task,
                program: None,
            });
        }
    };
    if seccomp == Seccomp::On {
        violation::report()?;
    }
    let compile = || -> Result<BpfProgram, seccompiler::BackendError> {
        let rules = rules::of(task)?;
        let arch = TargetArch::x86_64;
        SeccompFilter::new(rules, action, SeccompAction::Allow, arch)?.try_into()
    };
    let program = compile().map_err(|source| SeccompError::Filter {
        task: task.name(),
        source: source.into(),
    })?;
    Ok(Filter {
        task,
        program: Some(program),
    })
}

impl Filter {
    /// Confines the calling thread, and all that it starts, until they end.
    pub fn apply(&self) -> Result<(), SeccompError> {
        let Some(program) = &self.program else {
            return Ok(());
        };
        violation::name_thread(self.task);
        apply_filter(program).map_err(|source| SeccompError::Filter {
            task: self.task.name(),
            source,
        })
    }
}

/// The calling thread was started under the filter of another one with this task.
pub(crate) fn inherited(task: Task) {
    violation::name_thread(task);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_has_a_filter_that_the_kernel_takes() {
        for task in Task::ALL {
            let filter = filter(task, Seccomp::On).unwrap();
            std::thread::spawn(move || filter.apply())
                .join()
                .unwrap()
                .unwrap();
        }
    }
}
