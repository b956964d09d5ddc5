//! What a machine carries to run virtual machines inside: a kernel and a first file system for them, the VMM under test, and QEMU as it is packaged, for comparison. Only machines whose scenarios ask for it carry this, so that the others stay small.

use crate::cpio::Archive;
use crate::debian;
use crate::kernel::{Kernel, output};
use crate::modules::{self, Module};
use crate::options::{Arch, Options};
use crate::program;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where it is in the machine.
const PLACE: &str = "vm";

/// What the guest's file system needs: itself, its disk, and the checksums that it asks for by another name than the modules have.
const MODULES: [&str; 4] = ["crc32c_generic", "libcrc32c", "ext4", "brd"];

/// Bytes of the guest's disk: small, since all of it goes through two kernels' memory.
const DISK: &str = "8M";

/// Files by their path in the machine, without the slash in front.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// All of it.
pub(crate) fn files(options: &Options, kernel: &Kernel) -> Result<Files> {
    let programs = program::build_inside(options)?;
    let mut files = qemu(options.arch)?;
    let mut add = |name: &str, bytes| files.insert(format!("{PLACE}/{name}"), bytes);
    add("kernel", read(&kernel.image)?);
    add("initrd", guest(kernel, &programs.walker, &options.cache)?);
    add("vmm", read(&programs.vmm)?);
    Ok(files)
}

/// The guest's first file system.
fn guest(kernel: &Kernel, walker: &Path, cache: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "modules"] {
        archive.directory(directory);
    }
    archive.file("init", &read(walker)?);
    archive.file("disk.ext4", &disk(cache)?);
    if let Some(tree) = &kernel.modules {
        add_modules(&mut archive, &modules::collect(tree, &MODULES)?);
    }
    Ok(archive.finish())
}

/// Modules, under names that sort as they load.
pub(crate) fn add_modules(archive: &mut Archive, modules: &[Module]) {
    for (number, module) in modules.iter().enumerate() {
        let name = format!("modules/{number:02}-{}.ko", module.name);
        archive.file(&name, &module.contents);
    }
}

/// An empty file system.
fn disk(cache: &Path) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new_in(cache).context("cannot make a disk")?;
    // The same bytes every time: images are kept under names made from their contents.
    let identity = "00000000-0000-4000-8000-000000000000";
    let make = debian::program("mke2fs", "e2fsprogs")?;
    output(
        Command::new(make)
            .args(["-q", "-F", "-t", "ext4", "-U", identity])
            .args(["-E", &format!("hash_seed={identity}")])
            .arg(file.path())
            .arg(DISK)
            .env("E2FSPROGS_FAKE_TIME", "1"),
    )?;
    read(file.path())
}

/// QEMU with what it loads, from where the system has it.
fn qemu(arch: Arch) -> Result<Files> {
    let (program, package) = arch.qemu();
    let program = debian::program(program, package)?;
    let mut paths = libraries(&program)?;
    paths.push(program);
    for (directory, names) in arch.firmware() {
        paths.extend(names.iter().map(|name| Path::new(directory).join(name)));
    }
    let mut files = Files::new();
    for path in paths {
        let bytes = read(&path).with_context(|| format!("{package} is not complete"))?;
        let name = path.strip_prefix("/").unwrap_or(&path);
        files.insert(name.to_string_lossy().into_owned(), bytes);
    }
    Ok(files)
}

/// The shared libraries of a program and the loader that finds them, as the loader itself lists them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let list = output(Command::new(debian::program("ldd", "libc-bin")?).arg(program))?;
    let paths: Vec<_> = list.lines().filter_map(library).collect();
    if paths.is_empty() {
        bail!("{} has no libraries that ldd knows of", program.display());
    }
    Ok(paths)
}

/// The path in a line such as `libz.so.1 => /lib/libz.so.1 (0x7f…)`, or `/lib64/ld-linux-x86-64.so.2 (0x7f…)`.
fn library(line: &str) -> Option<PathBuf> {
    let path = line.split("=>").last()?.trim();
    let path = path.split(' ').next()?;
    path.starts_with('/').then(|| path.into())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_in_what_the_loader_lists() {
        let lines = [
            "\tlinux-vdso.so.1 (0x00007ffd)",
            "\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x00007f00)",
            "\tlibgone.so => not found",
            "\t/lib64/ld-linux-x86-64.so.2 (0x00007f01)",
        ];
        let found: Vec<_> = lines.iter().filter_map(|line| library(line)).collect();
        assert_eq!(
            found,
            [
                Path::new("/lib/x86_64-linux-gnu/libz.so.1"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }
}
