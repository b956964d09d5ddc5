//! `pagemend run`: the reference VMM with a guest in it.

mod console;
mod events;
mod host;
mod report;
pub(crate) mod terminal;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};
use pagemend::probe::hardware_virtualization;
use pagemend::{Filling, Heal, Policy};
use pagemend_vmm::api::{Api, ApiError, ApiSocket, SocketError};
use pagemend_vmm::seccomp::{self, Seccomp, SeccompError, Task};
use pagemend_vmm::{
    Console, CpuModel, End, MemoryConfig, Notify, Payload, Untold, Vm, VmConfig, VmError,
};

use crate::pages::Pages;
use crate::size::Size;
use console::ConsoleError;
use events::{EventsError, Log};
use host::{Asked, explain};
use report::Report;
use terminal::Raw;

/// Boots a Linux kernel in a virtual machine that goes on when its memory fails.
///
/// The guest's console is the terminal: every key goes to the guest, Ctrl-C too. Ctrl-A X switches
/// the machine off, and Ctrl-A twice is one for the guest. SIGINT and SIGTERM switch it off as well.
///
/// Exits with 0 when the machine was switched off, with 1 when the guest could not go on, and with 2
/// when it could not be started.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("payload").required(true).args(["kernel", "flat"])))]
pub(crate) struct Run {
    /// The kernel: a bzImage, or an ELF file that takes the same parameters.
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    kernel: Option<PathBuf>,
    /// Its first file system.
    #[arg(long, value_name = "FILE", requires = "kernel", help_heading = "Guest")]
    initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "console=ttyS0",
        help_heading = "Guest"
    )]
    cmdline: String,
    /// Instead of a kernel: code that every vCPU runs at 1 MiB in 64-bit mode.
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    flat: Option<PathBuf>,
    /// Guest memory, such as 512M.
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "512M",
        help_heading = "Memory"
    )]
    memory: Size,
    /// What the memory is made of.
    #[arg(long, value_enum, default_value_t = Pages::Huge2M, help_heading = "Memory")]
    page_size: Pages,
    /// What is wanted for a page that fails: mend, keep, discard or abandon.
    #[arg(long, default_value_t, help_heading = "Memory")]
    policy: Policy,
    /// When the bytes of a failed page come back: what somebody touches first, the rest in the
    /// background (on-demand), or all at once (eager). Pages up to 2 MiB always come back at once.
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        help_heading = "Memory"
    )]
    filling: FillWhen,
    /// When a huge page that was broken up around lost memory is whole again: never, on-ack (the guest
    /// has acknowledged the loss and keeps off it) or now. See docs/vmm.md.
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        help_heading = "Memory"
    )]
    heal: HealWhen,
    /// For how long the guest has to have kept off it, with --heal on-ack.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        help_heading = "Memory"
    )]
    heal_after: u32,
    /// What happens when the guest touches lost memory and cannot be told: pause, reset or stop.
    #[arg(
        long,
        value_name = "WHAT",
        default_value = "reset",
        help_heading = "Memory"
    )]
    untold: Untold,
    /// How the guest is told of lost memory that it has not touched: by machine checks (mce), by
    /// error records that it polls (ghes), or by what it has shown that it can take (auto).
    #[arg(long, value_name = "WAY", default_value_t, help_heading = "Memory")]
    notify: Notify,
    /// Do not look for errors that nobody has touched: they are met by touch.
    #[arg(long, help_heading = "Memory")]
    late: bool,
    /// Virtual processors, 1 to 8.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        help_heading = "Processors"
    )]
    vcpus: u8,
    /// What the guest is told that they are: host, intel or amd.
    #[arg(
        long,
        value_name = "MODEL",
        default_value = "host",
        help_heading = "Processors"
    )]
    cpu: CpuModel,
    /// Where the first serial port goes: stdio, off, or a file.
    #[arg(
        long,
        value_name = "WHERE",
        default_value = "stdio",
        help_heading = "Connections"
    )]
    console: String,
    /// A Unix socket that the second serial port is connected to.
    #[arg(long, value_name = "SOCKET", help_heading = "Connections")]
    channel: Option<PathBuf>,
    /// A Unix socket to make, on which the machine is steered over HTTP: see docs/vmm.md.
    #[arg(long, value_name = "SOCKET", help_heading = "Connections")]
    api: Option<PathBuf>,
    /// A file to write events to, one JSON object a line (schema pagemend.vm-event/1).
    #[arg(long, value_name = "FILE", help_heading = "Connections")]
    events: Option<PathBuf>,
    /// Do not start the vCPUs before the API says so.
    #[arg(long, requires = "api")]
    paused: bool,
    /// What to do about system calls that a thread has no use for: on (end), log or off.
    #[arg(long, value_name = "HOW", default_value = "on")]
    seccomp: Seccomp,
    /// Print how it ended as JSON (schema pagemend.run/1), in one line after the console's output.
    #[arg(long)]
    json: bool,
}

/// The name of each way to fill.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum FillWhen {
    /// What is touched first, and nobody waits for more than that.
    #[default]
    OnDemand,
    /// All at once: less work in all, and who touches the page waits for all of it.
    Eager,
}

impl From<FillWhen> for Filling {
    fn from(when: FillWhen) -> Self {
        match when {
            FillWhen::OnDemand => Self::OnDemand,
            FillWhen::Eager => Self::Eager,
        }
    }
}

/// The name of each way to heal.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum HealWhen {
    /// Only when the API says so.
    #[default]
    Never,
    /// When the guest has acknowledged the loss and kept off it for --heal-after.
    OnAck,
    /// Right after the page was mended: for guests that keep off what they were told is lost.
    Now,
}

impl HealWhen {
    fn after(self, seconds: u32) -> Heal {
        match self {
            Self::Never => Heal::Never,
            Self::OnAck => Heal::OnAck {
                after: Duration::from_secs(seconds.into()),
            },
            Self::Now => Heal::Now,
        }
    }
}

/// Why there is no machine, or it was not brought to its end.
#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{path} cannot be read", path = .path.display())]
    Flat { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Vm(#[from] VmError),
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Events(#[from] EventsError),
    #[error(transparent)]
    Console(#[from] ConsoleError),
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    #[error("the terminal cannot be made the guest's console")]
    Terminal(#[source] io::Error),
    #[error("SIGINT and SIGTERM cannot be handled")]
    Signals(#[source] ctrlc::Error),
}

impl RunError {
    fn asked(&self) -> Asked {
        match self {
            Self::Vm(error) => Asked::by(error),
            _ => Asked::Little,
        }
    }
}

impl Run {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        let stock = self.kernel.is_some();
        let json = self.json;
        let report = match self.steer() {
            Ok((End::Off, vm)) => Report::off(&vm),
            Ok((End::Crash(reason), vm)) => {
                let asked = Asked::by_guest(stock);
                Report::crash(explain(reason, asked, hardware_virtualization()), &vm)
            }
            Err(error) => {
                let asked = error.asked();
                let reason = crate::chain(&error);
                Report::cannot(explain(reason, asked, hardware_virtualization()))
            }
        };
        report.print(json)
    }

    fn steer(self) -> Result<(End, Arc<Vm>), RunError> {
        let at_stdio = self.console == "stdio";
        let (paused, events) = (self.paused, self.events.clone());
        let socket = self.api.as_deref().map(ApiSocket::bind).transpose()?;
        let vm = Arc::new(Vm::new(self.config()?)?);

        // Each of these starts threads, with filters of their own: ours comes after them.
        let log = events.map(|path| Log::start(&path, &vm)).transpose()?;
        let api = socket.map(|socket| Api::serve(socket, Arc::clone(&vm)));
        let api = api.transpose()?;
        let raw = match at_stdio {
            true => Raw::enter().map_err(RunError::Terminal)?,
            false => None,
        };
        if at_stdio {
            console::listen(&vm, raw.is_some())?;
        }
        if raw.is_some() {
            anstream::eprintln!("pagemend run: Ctrl-A X switches the machine off");
        }
        seccomp::filter(Task::Main, vm.config().seccomp)?.apply()?;
        let ended = Arc::clone(&vm);
        ctrlc::set_handler(move || ended.shut_down()).map_err(RunError::Signals)?;

        if !paused {
            vm.resume()?;
        }
        let end = vm.run_to_the_end();
        drop(api);
        drop(raw);
        let end = end?;
        if let Some(Err(error)) = log.map(Log::finish) {
            anstream::eprintln!("pagemend run: the file of events is not complete: {error}");
        }
        Ok((end, vm))
    }

    fn config(self) -> Result<VmConfig, RunError> {
        let payload = match (self.flat, self.kernel) {
            (Some(path), _) => match fs::read(&path) {
                Ok(code) => Payload::Flat(code),
                Err(source) => return Err(RunError::Flat { path, source }),
            },
            (None, kernel) => Payload::Linux {
                kernel: kernel.expect("the parser wants a kernel where there is no flat payload"),
                initrd: self.initrd,
                cmdline: self.cmdline,
            },
        };
        Ok(VmConfig {
            memory: MemoryConfig {
                bytes: self.memory.0,
                kind: self.page_size.kind(),
                policy: self.policy,
                filling: self.filling.into(),
                heal: self.heal.after(self.heal_after),
            },
            vcpus: self.vcpus,
            cpu: self.cpu,
            payload,
            console: match self.console.as_str() {
                "stdio" => Console::Stdio,
                "off" => Console::Off,
                file => Console::File(file.into()),
            },
            channel: self.channel,
            untold: self.untold,
            notify: self.notify,
            early: !self.late,
            seccomp: self.seccomp,
        })
    }
}
