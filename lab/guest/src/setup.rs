//! What a distribution's initramfs would do: mounts, modules, settings. What cannot be done is told to the host and goes on; the scenario that needs it will notice.

use crate::heartbeat;
use crate::pages::Pool;
use crate::trial::lacking;
use anyhow::{Result, anyhow};
use pagemend_lab_protocol::Needs;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::fmt::Display;
use std::fs;
use std::path::Path;

/// Where the host puts the modules, in the order of loading.
const MODULES: &str = "/modules";

/// Sets the machine up and says what did not work.
pub(crate) fn machine() -> Vec<String> {
    let mut troubles = Vec::new();
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("tmpfs", "/tmp"),
        ("hugetlbfs", "/huge-2m"),
    ] {
        // The directories under /sys exist already; the others are ours to make.
        let _ = rustix::fs::mkdir(place, Mode::from_raw_mode(0o755));
        let options = (kind == "hugetlbfs").then_some(c"pagesize=2M");
        if let Err(error) = mount(kind, place, kind, MountFlags::empty(), options) {
            troubles.push(format!("cannot mount {kind} on {place}: {error}"));
        }
    }
    troubles.extend(modules());
    keep_one_machine();
    if let Err(error) = heartbeat::start() {
        troubles.push(format!("no heartbeat: {error}"));
    }
    // Anonymous and shmem huge pages only where a scenario asks, so that the others see none.
    for (file, value) in [
        ("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
        (
            "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
            "advise",
        ),
    ] {
        if let Err(error) = fs::write(file, value) {
            troubles.push(format!("cannot write {value} to {file}: {error}"));
        }
    }
    troubles
}

/// Keeps a virtual machine without anything in it, for ever. With the first one the kernel changes instructions in the middle of its scheduler, and with the last one back; on an emulator whose processors run side by side, one of them may execute what is half changed.
fn keep_one_machine() {
    if let Ok(machine) = kvm_ioctls::Kvm::new().and_then(|kvm| kvm.create_vm()) {
        std::mem::forget(machine);
    }
}

fn modules() -> Vec<String> {
    let Ok(entries) = fs::read_dir(MODULES) else {
        return vec![format!("no modules in {MODULES}")];
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| load(path)).collect()
}

/// Loads a module and says why not.
fn load(path: &Path) -> Option<String> {
    let trouble = |error: &dyn Display| Some(format!("cannot load {}: {error}", path.display()));
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) => return trouble(&error),
    };
    match rustix::system::finit_module(&file, c"", 0) {
        // Not supported: a module for another processor than this machine's.
        Ok(()) | Err(Errno::OPNOTSUPP) => None,
        Err(error) => trouble(&error),
    }
}

/// Puts the pool of 2 MiB pages to exactly as many free pages as the scenario wants. Those that earlier scenarios lost stay counted, so they are added. The host has sized the machine for them, so a pool that stays short is a failure, unless this kernel has none.
pub(crate) fn pools(needs: &Needs) -> Result<()> {
    let pool = Pool::two_mib();
    let lost_or_used = pool.total().saturating_sub(pool.free());
    pool.resize(lost_or_used + u64::from(needs.huge_2m));
    let (wanted, free) = (u64::from(needs.huge_2m), pool.free());
    if free != wanted {
        return Err(short(&pool, "2 MiB", wanted, free));
    }
    let pool = Pool::one_gib();
    let (wanted, free) = (u64::from(needs.huge_1g), pool.free());
    if free < wanted {
        return Err(short(&pool, "1 GiB", wanted, free));
    }
    Ok(())
}

fn short(pool: &Pool, size: &str, wanted: u64, free: u64) -> anyhow::Error {
    match pool.exists() {
        true => anyhow!("wanted {wanted} free {size} pages, got {free}"),
        false => lacking(format!("this kernel has no pool of {size} pages")),
    }
}
