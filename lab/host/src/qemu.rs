//! Has QEMU and starts machines with it. The channel and the monitor are sockets that QEMU gets as its standard input and output: no paths, no ports, and their end is the machine's end.

use crate::debian;
use crate::kernel::Kernel;
use crate::options::{Accelerator, Arch, Options};
use crate::plan::Batch;
use crate::room::PROCESSORS;
use anyhow::{Context, Result};
use pagemend_lab_protocol::Cpu;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};

/// The files of a boot's directory: its console, and what QEMU itself says.
pub(crate) const CONSOLE: &str = "console.log";
pub(crate) const QEMU: &str = "qemu.log";

/// A started machine. It is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) channel: UnixStream,
    pub(crate) monitor: UnixStream,
    child: Child,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes sure that QEMU is there, and what it is to use.
pub(crate) fn ensure(options: &Options) -> Result<()> {
    if options.accelerator == Accelerator::Kvm {
        File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .context("cannot use /dev/kvm; --accel tcg does without")?;
    }
    let (program, package) = options.arch.qemu();
    debian::program(program, package).map(drop)
}

/// What to say where a machine does not come up.
pub(crate) fn advice(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Tcg => "the machine did not come up",
        Accelerator::Kvm => {
            "the machine did not come up: this host's /dev/kvm cannot run it, and --accel tcg can"
        }
    }
}

/// Starts a machine for a batch; its console and QEMU's own messages go to files in `directory`.
pub(crate) fn start(
    options: &Options,
    kernel: &Kernel,
    initramfs: &Path,
    batch: &Batch,
    processor: Option<usize>,
    directory: &Path,
) -> Result<Machine> {
    let (program, _) = options.arch.qemu();
    let (channel, its_channel) = UnixStream::pair().context("cannot make a socket pair")?;
    let (monitor, its_monitor) = UnixStream::pair().context("cannot make a socket pair")?;
    let messages = File::create(directory.join(QEMU)).context("cannot make a log")?;
    let child = command(options, batch.cpu)
        .args(["-m", &format!("{}M", batch.memory())])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", &parameters(options.arch, batch)])
        .arg("-chardev")
        .arg(format!(
            "file,id=console,path={}",
            directory.join(CONSOLE).display()
        ))
        .args(["-serial", "chardev:console"])
        .args(["-chardev", "socket,id=channel,fd=0"])
        .args(["-serial", "chardev:channel"])
        .args(["-chardev", "socket,id=monitor,fd=1"])
        .args(["-mon", "chardev=monitor,mode=control"])
        .stdin(OwnedFd::from(its_channel))
        .stdout(OwnedFd::from(its_monitor))
        .stderr(messages)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let machine = Machine {
        channel,
        monitor,
        child,
    };
    if let Some(processor) = processor {
        machine.keep_on(processor)?;
    }
    Ok(machine)
}

impl Machine {
    /// Keeps all its threads on one of this host's processors; those that it has not started yet inherit it. For machines that run guests: QEMU's emulation changes a processor's pending interrupts without a lock as it enters or leaves one (docs/lab.md), which on one processor is as good as with it.
    fn keep_on(&self, processor: usize) -> Result<()> {
        let mut one = rustix::thread::CpuSet::new();
        one.set(processor);
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::thread::sched_setaffinity(Some(pid), &one)
            .with_context(|| format!("cannot keep a machine on processor {processor}"))
    }
}

/// QEMU with a machine that has a processor and nothing else.
pub(crate) fn command(options: &Options, cpu: Cpu) -> Command {
    let (program, _) = options.arch.qemu();
    let mut command = Command::new(program);
    command.args(machine(options, cpu)).args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    command
}

fn machine(options: &Options, cpu: Cpu) -> Vec<String> {
    let accelerator = match options.accelerator {
        Accelerator::Tcg => "tcg,thread=multi",
        Accelerator::Kvm => "kvm",
    };
    // Without fast-string copying, which software emulation does a byte at a time.
    let cpu = match (options.accelerator, cpu) {
        (Accelerator::Tcg, Cpu::Amd) => "max,svm=on,-erms,-fsrm",
        // A family and model that Linux expects recoverable machine checks from.
        (Accelerator::Tcg, Cpu::Intel) => "Skylake-Server-noTSX-IBRS,-erms",
        (Accelerator::Kvm, _) => "host",
    };
    [
        "-machine",
        "q35",
        "-accel",
        accelerator,
        "-cpu",
        cpu,
        "-smp",
        &PROCESSORS.to_string(),
    ]
    .map(ToOwned::to_owned)
    .into()
}

fn parameters(arch: Arch, batch: &Batch) -> String {
    let (console, channel) = arch.ports();
    let mut words = vec![
        format!("console={console}"),
        format!("pagemend.channel={channel}"),
        // A panic ends the machine, and -no-reboot ends QEMU.
        "panic=-1 quiet loglevel=5".into(),
        // Nobody attacks an emulated processor, and guarding it costs time.
        "mitigations=off".into(),
    ];
    if batch.huge_1g() > 0 {
        words.push(format!("hugepagesz=1G hugepages={}", batch.huge_1g()));
    }
    if batch.scenarios.iter().any(|s| s.needs.persistent) {
        // 128 MiB at the second GiB, which every machine has.
        words.push("memmap=128M!1G".into());
    }
    words.join(" ")
}
