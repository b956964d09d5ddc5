//! What a virtual machine is to be, and what is wrong with a wish for one.

use std::path::PathBuf;
use std::str::FromStr;

use pagemend::{Filling, Heal, MemoryKind, Policy};
use pagemend_guest::route::Notify;

use crate::layout;
use crate::seccomp::Seccomp;

/// A virtual machine as it is wanted.
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// Guest memory.
    pub memory: MemoryConfig,
    /// Virtual processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// What the guest is told that its processors are.
    pub cpu: CpuModel,
    /// What runs in it.
    pub payload: Payload,
    /// Where the first serial port goes, which is the console of a Linux guest.
    pub console: Console,
    /// A Unix socket that the second serial port is connected to.
    pub channel: Option<PathBuf>,
    /// What happens when a guest touches a lost frame and cannot be told.
    pub untold: Untold,
    /// How the guest is told of lost memory that it has not touched.
    pub notify: Notify,
    /// Whether errors that nobody touched are looked for: off, they are met by touch.
    pub early: bool,
    /// What is done about system calls that a thread has no use for.
    pub seccomp: Seccomp,
}

/// Virtual processors that a machine can have at most.
pub const MAX_VCPUS: u8 = 8;

/// Guest memory as it is wanted.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Its size in bytes: a multiple of its page size.
    pub bytes: u64,
    /// What it is made of.
    pub kind: MemoryKind,
    /// What is done about a page of it that fails.
    pub policy: Policy,
    /// When the bytes of a mended page come back.
    pub filling: Filling,
    /// When its huge pages are whole again after that.
    pub heal: Heal,
}

/// What a guest is told that its processors are. How it takes machine checks depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuModel {
    /// What the host has.
    #[default]
    Host,
    /// An Intel server processor.
    Intel,
    /// An AMD server processor.
    Amd,
}

/// No such processor.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no processor model: host, intel or amd")]
pub struct UnknownModel(String);

impl FromStr for CpuModel {
    type Err = UnknownModel;

    fn from_str(name: &str) -> Result<Self, UnknownModel> {
        match name {
            "host" => Ok(Self::Host),
            "intel" => Ok(Self::Intel),
            "amd" => Ok(Self::Amd),
            other => Err(UnknownModel(other.to_owned())),
        }
    }
}

/// What runs in the machine.
#[derive(Clone, Debug)]
pub enum Payload {
    /// A Linux kernel: a bzImage, or an ELF file that takes the same parameters.
    Linux {
        /// The kernel.
        kernel: PathBuf,
        /// Its first file system.
        initrd: Option<PathBuf>,
        /// Its command line.
        cmdline: String,
    },
    /// Bytes that are loaded at 1 MiB and run there by every vCPU at once, in 64-bit mode, with
    /// all memory mapped to itself (for user mode too), interrupts off, and the vCPU's number in
    /// RDI.
    Flat(Vec<u8>),
}

/// Where the first serial port goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Console {
    /// To the terminal, and from it.
    Stdio,
    /// Into a file.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// What happens when a guest touches a lost frame and cannot be told, because it is not ready for
/// a machine check or is in the middle of one: going on would mean reading what is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Untold {
    /// The machine is paused, for somebody to look at it.
    Pause,
    /// The machine starts again.
    #[default]
    Reset,
    /// The machine ends.
    Stop,
}

/// No such answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is nothing to do with a guest that cannot be told: pause, reset or stop")]
pub struct UnknownAnswer(String);

impl FromStr for Untold {
    type Err = UnknownAnswer;

    fn from_str(name: &str) -> Result<Self, UnknownAnswer> {
        match name {
            "pause" => Ok(Self::Pause),
            "reset" => Ok(Self::Reset),
            "stop" => Ok(Self::Stop),
            other => Err(UnknownAnswer(other.to_owned())),
        }
    }
}

/// What is wrong with a wish for a machine.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Too few or too many processors.
    #[error("{0} vCPUs were asked for: 1 to {MAX_VCPUS} are possible")]
    Vcpus(u8),
    /// More memory than the machine's first page tables can map.
    #[error("{bytes} bytes of memory were asked for: {max} are possible", max = layout::MAX_MEMORY)]
    TooMuchMemory {
        /// Bytes asked for.
        bytes: u64,
    },
    /// So little memory that nothing can be loaded.
    #[error("{bytes} bytes of memory were asked for: nothing runs in less than 16 MiB")]
    TooLittleMemory {
        /// Bytes asked for.
        bytes: u64,
    },
}

impl VmConfig {
    /// Finds what could never become a machine. What depends on the host is found by building it.
    pub fn check(&self) -> Result<(), ConfigError> {
        let bytes = self.memory.bytes;
        if self.vcpus == 0 || self.vcpus > MAX_VCPUS {
            return Err(ConfigError::Vcpus(self.vcpus));
        }
        if bytes > layout::MAX_MEMORY {
            return Err(ConfigError::TooMuchMemory { bytes });
        }
        if bytes < 16 << 20 {
            return Err(ConfigError::TooLittleMemory { bytes });
        }
        Ok(())
    }
}
