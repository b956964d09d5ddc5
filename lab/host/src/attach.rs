//! One virtual machine to look at: a lab's machine boots, and in it the VMM under test with a guest whose console is the terminal.

use crate::inside;
use crate::options::Options;
use crate::{cache, image, kernel, program, qemu};
use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::Cpu;

/// MiB of the machine around the guest, of which two 1 GiB pages are set aside for a guest on those.
const MEMORY: u32 = 6144;
const PAGES: &str = "hugepagesz=1G hugepages=2";

/// Boots it, with these arguments to the VMM, and returns when it is switched off.
///
/// # Errors
/// Something that the lab needs is missing, or QEMU fails.
pub fn attach(options: &Options, arguments: &[String]) -> Result<()> {
    if let Some(word) = arguments.iter().find(|word| word.contains([' ', '"'])) {
        bail!(
            "`{word}` cannot be passed on: it goes through a kernel's command line, word by word"
        );
    }
    let _held = cache::hold(&options.cache)?;
    let program = program::build(options)?;
    qemu::ensure(options)?;
    let wanted = options.kernels.first().context("no kernel is given")?;
    let kernel = kernel::find(wanted, options.arch, &options.cache)?;
    let files = inside::files(options, &kernel)?;
    let initramfs = image::initramfs(&kernel, &program, options.arch, &files, &options.cache)?;
    let (_, channel) = options.arch.ports();
    // What is behind the dashes is the arguments of process 1.
    let parameters = format!(
        "pagemend.channel={channel} panic=-1 quiet mitigations=off {PAGES} -- vm {}",
        arguments.join(" ")
    );
    let status = qemu::command(options, Cpu::Amd)
        .args(["-m", &format!("{MEMORY}M")])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&initramfs)
        .args(["-append", &parameters])
        .args(["-serial", "null"])
        // The terminal as it is: what is typed goes to the guest, an interrupt as well.
        .args(["-chardev", "stdio,id=terminal,signal=off"])
        .args(["-serial", "chardev:terminal"])
        .status()
        .context("cannot start QEMU")?;
    if !status.success() {
        bail!("QEMU ended with {status}");
    }
    Ok(())
}
