//! Persistent memory as a device file (devdax), from memory that the kernel was told to treat as such. What `ndctl create-namespace --mode=devdax` does, through sysfs.

use crate::trial::lacking;
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, open};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;

const BUS: &str = "/sys/bus/nd";

/// Makes the machine's persistent memory a device and opens it; it is used in pages of 2 MiB.
pub(crate) fn device() -> Result<OwnedFd> {
    let region = format!("{BUS}/devices/region0");
    if !Path::new(&region).exists() {
        return Err(lacking("this kernel has no persistent memory"));
    }
    let seed = read(&format!("{region}/dax_seed"))?;
    let dax = format!("{BUS}/devices/{seed}");
    // It comes as a block device; the device file takes its place.
    let _ = fs::write(format!("{BUS}/drivers/nd_pmem/unbind"), "namespace0.0");
    for (attribute, value) in [
        ("uuid", "7f3e1c52-9a64-4c0e-8f1d-2b5a6d9e0c11"),
        // Where the page structures go: ordinary memory.
        ("mode", "ram"),
        ("align", "2097152"),
        ("namespace", "namespace0.0"),
    ] {
        write(&format!("{dax}/{attribute}"), value)?;
    }
    write(&format!("{BUS}/drivers/dax_pmem/bind"), &seed)?;
    open("/dev/dax0.0", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context("cannot open /dev/dax0.0")
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

fn write(path: &str, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("cannot write {value} to {path}"))
}
