//! What a run of the lab can be told.

use std::path::PathBuf;

/// What to run, on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names or wildcards of scenarios; empty means the default set.
    pub names: Vec<String>,
    /// Also those that are not in the default set.
    pub all: bool,
    /// Kernels: a version such as `6.12`, or the path of a kernel image, of a Debian package, or of a directory with `boot/` and `lib/modules/`.
    pub kernels: Vec<String>,
    /// The architecture of the machines.
    pub arch: Arch,
    /// MiB of memory that a machine may have. One scenario that needs more gets more.
    pub memory: u32,
    /// How the machine's processor is made.
    pub accelerator: Accelerator,
    /// Machines side by side, if they fit into free memory; by default as many as there are processors for.
    pub jobs: Option<usize>,
    /// Keep each machine's console log and QEMU's messages, and say where.
    pub keep: bool,
    /// The package that is the guest program: static, with a binary of its own name, and speaking the protocol.
    pub program: String,
    /// What runs virtual machines inside the machines, for the scenarios that ask for it.
    pub inside: Inside,
    /// The workspace, where the guest program is built from.
    pub workspace: PathBuf,
    /// Where kernels, images and builds are kept.
    pub cache: PathBuf,
}

/// The programs of virtual machines inside the lab's. All are linked statically.
#[derive(Clone, Debug)]
pub struct Inside {
    /// The VMM under test, which the machine has as `/vm/vmm`.
    pub vmm: Program,
    /// Process 1 of its guests, in `/vm/initrd`.
    pub guest: Program,
}

/// A program of the workspace.
#[derive(Clone, Debug)]
pub struct Program {
    /// The package that it is in.
    pub package: String,
    /// Its name.
    pub binary: String,
}

/// An architecture that the lab can boot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arch {
    /// A PC.
    X86_64,
}

/// How the machine's processor is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accelerator {
    /// Software emulation: slower, and the same everywhere.
    Tcg,
    /// The host's processor.
    Kvm,
}

impl Arch {
    /// Rust's name for programs of this architecture.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
        }
    }

    /// QEMU's program, and the Debian package that has it.
    pub(crate) fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
        }
    }

    /// Debian's name.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
        }
    }

    /// The modules that scenarios use, without those that these depend on.
    pub(crate) fn modules(self) -> &'static [&'static str] {
        match self {
            Self::X86_64 => &[
                "hwpoison-inject",
                "nbd",
                // ext4 asks for it by what it does, not by its name.
                "crc32c_generic",
                "ext4",
                "kvm",
                "kvm-amd",
                "nd_e820",
                "nd_pmem",
                "dax_pmem",
                "device_dax",
            ],
        }
    }

    /// The firmware files that QEMU loads for a guest with a kernel and two serial ports, and where it looks for them.
    pub(crate) fn firmware(self) -> [(&'static str, &'static [&'static str]); 2] {
        match self {
            Self::X86_64 => [
                ("/usr/share/seabios", &["bios-256k.bin"]),
                ("/usr/share/qemu", &["kvmvapic.bin", "linuxboot_dma.bin"]),
            ],
        }
    }

    /// The kernel's name for the console and for the channel's port.
    pub(crate) fn ports(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("ttyS0", "/dev/ttyS1"),
        }
    }
}
