//! What a distribution's initramfs would do: mounts, modules, settings, and a disk with a real file system.

use anyhow::{Context, Result};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::fs;
use std::path::Path;

/// Where the modules are, in the order of loading.
const MODULES: &str = "/modules";
/// The file system that the lab's host made.
const IMAGE: &str = "/disk.ext4";
/// What it is written to.
const DISK: &str = "/dev/ram0";
/// Where it is mounted.
pub(crate) const MOUNTED: &str = "/disk";

/// Sets the machine up and says what did not work.
pub(crate) fn machine() -> Vec<String> {
    let mut troubles = Vec::new();
    let mut attempt = |what: &str, outcome: Result<()>| {
        if let Err(error) = outcome {
            troubles.push(format!("{what}: {error:#}"));
        }
    };
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        let _ = rustix::fs::mkdir(place, Mode::from_raw_mode(0o755));
        let mounted = mount(kind, place, kind, MountFlags::empty(), None);
        attempt(place, mounted.context("cannot be mounted"));
    }
    attempt("modules", modules());
    attempt("disk", disk());
    for (file, value) in [
        // What is dirty stays so until somebody asks.
        ("/proc/sys/vm/dirty_writeback_centisecs", "0"),
        // A page keeps its frame: a scenario is told of it once.
        ("/proc/sys/vm/compact_unevictable_allowed", "0"),
        ("/sys/kernel/mm/transparent_hugepage/khugepaged/defrag", "0"),
        // Where errors come as records alone, as on AMD's processors, the kernel looks for them each second.
        (
            "/sys/devices/system/machinecheck/machinecheck0/check_interval",
            "1",
        ),
        // What is given back is free at once, rather than kept at hand by a processor.
        ("/proc/sys/vm/percpu_pagelist_high_fraction", "1000"),
    ] {
        // A guest whose machine checks are off has no such setting.
        if Path::new(file).exists() || !file.contains("machinecheck") {
            attempt(file, fs::write(file, value).context("cannot be set"));
        }
    }
    troubles
}

fn modules() -> Result<()> {
    let entries = fs::read_dir(MODULES).context("there are none")?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let file = fs::File::open(&path).with_context(|| path.display().to_string())?;
        match rustix::system::finit_module(&file, c"", 0) {
            // Another one brought it, or it is for another processor than this machine's.
            Ok(()) | Err(Errno::EXIST | Errno::NODEV | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    Ok(())
}

/// Puts the file system on a disk of memory, which is a block device like any other.
fn disk() -> Result<()> {
    let image = fs::read(IMAGE).context("there is no image")?;
    fs::write(DISK, image).with_context(|| format!("cannot write {DISK}"))?;
    fs::remove_file(IMAGE).context("cannot remove the image")?;
    fs::create_dir_all(Path::new(MOUNTED))?;
    mount(DISK, MOUNTED, "ext4", MountFlags::empty(), None).context("cannot mount it")
}

/// The processor's vendor.
pub(crate) fn vendor() -> Result<String> {
    value("/proc/cpuinfo", "vendor_id")
}

/// `HardwareCorrupted`, in KiB.
pub(crate) fn hardware_corrupted() -> Result<u64> {
    kib("HardwareCorrupted")
}

/// `MemAvailable`, in KiB.
pub(crate) fn available() -> Result<u64> {
    kib("MemAvailable")
}

fn kib(name: &str) -> Result<u64> {
    let value = value("/proc/meminfo", name)?;
    let number = value.trim_end_matches(" kB").parse();
    number.with_context(|| format!("{name} is {value}"))
}

/// The value of a `name: value` line.
fn value(path: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let line = lines.find(|(left, _)| left.trim_end() == name);
    let (_, value) = line.with_context(|| format!("{path} has no {name}"))?;
    Ok(value.trim().to_owned())
}
