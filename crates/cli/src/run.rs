//! `pagemend run`: the reference VMM with a guest in it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use pagemend::Policy;
use pagemend_vmm::{Console, CpuModel, End, MemoryConfig, Payload, Untold, Vm, VmConfig, VmError};

use crate::pages::Pages;
use crate::size::Size;

/// The exit code where the machine could not be made.
const CANNOT: u8 = 2;

/// Boots a Linux kernel in a virtual machine that goes on when its memory fails.
///
/// Exits with 0 when the guest was switched off, with 1 when it could not go on, and with 2 when
/// it could not be started.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The kernel: a bzImage, or an ELF file that takes the same parameters.
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Its first file system.
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(long, value_name = "TEXT", default_value = "console=ttyS0")]
    cmdline: String,
    /// Guest memory, such as 512M.
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    memory: Size,
    /// What the memory is made of.
    #[arg(long, value_enum, default_value_t = Pages::Huge2M)]
    page_size: Pages,
    /// What is wanted for a page that fails: mend, keep, discard or abandon.
    #[arg(long, default_value_t)]
    policy: Policy,
    /// Virtual processors, 1 to 8.
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u8,
    /// What the guest is told that they are: host, intel or amd.
    #[arg(long, value_name = "MODEL", default_value = "host")]
    cpu: CpuModel,
    /// Where the first serial port goes: stdio, off, or a file.
    #[arg(long, value_name = "WHERE", default_value = "stdio")]
    console: String,
    /// A Unix socket that the second serial port is connected to.
    #[arg(long, value_name = "SOCKET")]
    channel: Option<PathBuf>,
    /// What happens when the guest touches lost memory and cannot be told: pause, reset or stop.
    #[arg(long, value_name = "WHAT", default_value = "reset")]
    untold: Untold,
    /// Do not look for errors that nobody has touched: they are met by touch.
    #[arg(long)]
    late: bool,
}

impl Run {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        match self.machine().and_then(|vm| {
            vm.resume()?;
            vm.run_to_the_end()
        }) {
            Ok(End::Off) => Ok(ExitCode::SUCCESS),
            Ok(End::Crash(reason)) => {
                anstream::eprintln!("pagemend run: the guest could not go on: {reason}");
                Ok(ExitCode::FAILURE)
            }
            Err(error) => {
                anstream::eprintln!("pagemend run: {}", crate::chain(&error));
                Ok(ExitCode::from(CANNOT))
            }
        }
    }

    fn machine(self) -> Result<Vm, VmError> {
        Vm::new(VmConfig {
            memory: MemoryConfig {
                bytes: self.memory.0,
                kind: self.page_size.kind(),
                policy: self.policy,
            },
            vcpus: self.vcpus,
            cpu: self.cpu,
            payload: Payload::Linux {
                kernel: self.kernel,
                initrd: self.initrd,
                cmdline: self.cmdline,
            },
            console: match self.console.as_str() {
                "stdio" => Console::Stdio,
                "off" => Console::Off,
                file => Console::File(file.into()),
            },
            channel: self.channel,
            untold: self.untold,
            early: !self.late,
            seccomp: Default::default(),
        })
    }
}
