//! What virtual machine is wanted, and how each VMM is asked for it. Both get the same kernel, the same file system, and memory of the same kind.

use super::late;
use anyhow::{Context, Result};
use pagemend_lab_protocol::Needs;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Files of a guest, in its directory: its console, what its VMM says, the walker's line, and the VMM's API and events.
pub(crate) const CONSOLE: &str = "console.log";
pub(crate) const MESSAGES: &str = "vmm.log";
pub(crate) const CHANNEL: &str = "channel";
pub(crate) const API: &str = "api";
pub(crate) const EVENTS: &str = "events.jsonl";

/// The stock kernel, and the walker's file system.
const KERNEL: &str = "/vm/kernel";
const INITRD: &str = "/vm/initrd";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// Who runs the guest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Vmm {
    Pagemend,
    Qemu,
}

impl Vmm {
    /// As a part of a scenario's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pagemend => "pagemend",
            Self::Qemu => "qemu",
        }
    }

    /// What it calls itself.
    pub(crate) fn version(self) -> Result<String> {
        let program = match self {
            Self::Pagemend => "/vm/vmm",
            Self::Qemu => QEMU,
        };
        let said = Command::new(program).arg("--version").output();
        let said = said
            .with_context(|| format!("cannot run {program}"))?
            .stdout;
        let said = String::from_utf8_lossy(&said);
        let words: Vec<_> = said.split_whitespace().collect();
        Ok(match words.as_slice() {
            ["QEMU", "emulator", "version", number, ..] => format!("QEMU {number}"),
            words => words.join(" "),
        })
    }
}

/// What guest memory is made of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Backing {
    Huge2M,
    Huge1G,
    Transparent,
    Small,
}

impl Backing {
    /// As a part of a scenario's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Huge2M => "2m",
            Self::Huge1G => "1g",
            Self::Transparent => "thp",
            Self::Small => "4k",
        }
    }
}

/// What the guest's processors pretend to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Model {
    Amd,
    Intel,
}

impl Model {
    /// As a part of a scenario's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd => "amd",
            Self::Intel => "intel",
        }
    }
}

/// How pagemend's VMM tells its guest of what nobody has touched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Notify {
    Ghes,
    Auto,
}

impl Notify {
    /// As a part of a scenario's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ghes => "ghes",
            Self::Auto => "auto",
        }
    }
}

/// The machine that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    pub(crate) vmm: Vmm,
    pub(crate) backing: Backing,
    pub(crate) model: Model,
    pub(crate) vcpus: u32,
    /// Bytes of guest memory, below the hole of a PC's address space.
    pub(crate) memory: u64,
    /// Whether the VMM is to hear of errors only by touch.
    pub(crate) late: bool,
    /// How the guest is told, under pagemend's VMM.
    pub(crate) notify: Notify,
    /// What runs in it: the stock kernel with the walker, or a file.
    pub(crate) kernel: &'static str,
    /// More for the guest's kernel.
    pub(crate) parameters: &'static str,
    /// More for `pagemend run`.
    pub(crate) options: &'static [&'static str],
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vmm,
            backing,
            model,
            vcpus,
            memory,
            late,
            notify,
            kernel: _,
            parameters,
            options,
        } = self;
        let (vmm, backing, model) = (vmm.name(), backing.name(), model.name());
        write!(
            f,
            "{vmm}, {} MiB of {backing}, {vcpus} {model} vCPUs",
            memory >> 20
        )?;
        if *late {
            f.write_str(", told of errors by touch alone")?;
        }
        if !options.is_empty() {
            write!(f, ", {}", options.join(" "))?;
        }
        if *notify != Notify::Auto {
            write!(f, ", told by {}", notify.name())?;
        }
        match *parameters {
            "" => Ok(()),
            more => write!(f, ", {more}"),
        }
    }
}

impl Wish {
    /// A machine with nothing special.
    pub(crate) fn new(vmm: Vmm, backing: Backing, model: Model, vcpus: u32) -> Self {
        Self {
            vmm,
            backing,
            model,
            vcpus,
            memory: match backing {
                Backing::Huge1G => 1 << 30,
                _ => 512 << 20,
            },
            late: false,
            notify: Notify::Auto,
            kernel: KERNEL,
            parameters: "",
            options: &[],
        }
    }

    /// One whose VMM hears of errors only by touch.
    pub(crate) fn late(self) -> Self {
        Self { late: true, ..self }
    }

    /// What the machine around it needs.
    pub(crate) fn needs(&self) -> Needs {
        let needs = match self.backing {
            // As much as the guest has, and some to mend with.
            Backing::Huge2M => Needs::NOTHING.huge_2m((self.memory >> 21) as u32 + 16),
            Backing::Huge1G => Needs::NOTHING.huge_1g(1).huge_2m(520),
            Backing::Transparent | Backing::Small => Needs::NOTHING,
        };
        needs.guests().seconds(240)
    }

    /// As a part of a scenario's name.
    pub(crate) fn machine(&self) -> String {
        let (backing, model) = (self.backing.name(), self.model.name());
        format!("{backing}-{model}-{}", self.vcpus)
    }

    /// Starts the VMM.
    pub(crate) fn spawn(&self, directory: &Path) -> Result<Child> {
        let messages = File::create(directory.join(MESSAGES)).context("cannot make a log")?;
        let mut command = match self.vmm {
            Vmm::Pagemend => self.pagemend(directory),
            Vmm::Qemu => self.qemu(directory),
        };
        command
            .stdin(Stdio::null())
            .stdout(messages.try_clone()?)
            .stderr(messages);
        command.spawn().context("cannot start a VMM")
    }

    /// A panic ends the boot at once. Nothing but that goes to the console, each byte of which is an exit from the guest: in the emulated machine KVM has to read and decode the instruction of most exits, and while the memory that it lies in is being mended, it cannot, and gives the guest a fault (docs/lab.md). At level 0 a kernel does not even say why it panics (console_verbose, include/linux/printk.h); at level 1 it prints every machine check.
    fn cmdline(&self) -> String {
        let words =
            "console=ttyS0 walker.port=/dev/ttyS1 panic=-1 quiet loglevel=0 mitigations=off";
        format!("{words} {}", self.parameters)
    }

    fn pagemend(&self, directory: &Path) -> Command {
        let pages = match self.backing {
            Backing::Huge2M => "2M",
            Backing::Huge1G => "1G",
            Backing::Transparent => "thp",
            Backing::Small => "4k",
        };
        let (memory, vcpus, cpu) = (self.memory >> 20, self.vcpus, self.model.name());
        let (kernel, notify) = (self.kernel, self.notify.name());
        let directory = directory.display();
        let words = format!(
            "run --kernel {kernel} --memory {memory}M --page-size {pages} \
             --vcpus {vcpus} --cpu {cpu} --notify {notify} \
             --console {directory}/{CONSOLE} --channel {directory}/{CHANNEL} --api {directory}/{API} --events {directory}/{EVENTS}"
        );
        let mut command = Command::new("/vm/vmm");
        command.args(words.split(' '));
        if kernel == KERNEL {
            command.args(["--initrd", INITRD]);
        }
        command.arg("--cmdline").arg(self.cmdline());
        command.args(self.options);
        if self.late {
            command.arg("--late");
        }
        command
    }

    fn qemu(&self, directory: &Path) -> Command {
        let huge = match self.backing {
            Backing::Huge2M => ",hugetlb=on,hugetlbsize=2M",
            Backing::Huge1G => ",hugetlb=on,hugetlbsize=1G",
            Backing::Transparent | Backing::Small => "",
        };
        let cpu = match self.model {
            Model::Amd => "host",
            // A family and model that Linux expects recoverable machine checks from.
            Model::Intel => "Skylake-Server",
        };
        let (memory, vcpus) = (self.memory >> 20, self.vcpus);
        let directory = directory.display();
        let words = format!(
            "-accel kvm -machine q35,memory-backend=ram -cpu {cpu} -smp {vcpus} -m {memory}M \
             -object memory-backend-memfd,id=ram,share=on,size={memory}M{huge} \
             -kernel {} -initrd {INITRD} \
             -nodefaults -no-user-config -no-reboot -display none \
             -chardev file,id=console,path={directory}/{CONSOLE} -serial chardev:console \
             -chardev socket,id=channel,path={directory}/{CHANNEL} -serial chardev:channel",
            self.kernel
        );
        let mut command = Command::new(QEMU);
        command.args(words.split(' '));
        command.arg("-append").arg(self.cmdline());
        if self.late {
            late::make_late(&mut command);
        }
        command
    }
}
