//! The initramfs: the guest program, the modules, the directories to mount on, and what virtual machines need. Kept under a name made from its contents.

use crate::cache;
use crate::cpio::Archive;
use crate::inside::{self, Files};
use crate::kernel::Kernel;
use crate::modules;
use crate::options::Arch;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The initramfs for a kernel and a guest program, with further files.
pub(crate) fn initramfs(
    kernel: &Kernel,
    program: &Path,
    arch: Arch,
    more: &Files,
    cache: &Path,
) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for directory in ["dev", "proc", "sys", "tmp", "modules", "huge-2m"] {
        archive.directory(directory);
    }
    let init = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    archive.file("init", &init);
    if let Some(tree) = &kernel.modules {
        inside::add_modules(&mut archive, &modules::collect(tree, arch.modules())?);
    }
    let mut made = BTreeSet::new();
    for (name, contents) in more {
        for directory in ancestors(name) {
            if made.insert(directory) {
                archive.directory(directory);
            }
        }
        archive.file(name, contents);
    }
    let bytes = archive.finish();
    let digest: String = Sha256::digest(&bytes)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let images = cache::images(cache);
    fs::create_dir_all(&images).with_context(|| format!("cannot create {}", images.display()))?;
    let path = images.join(format!("{digest}.cpio"));
    if path.is_file() {
        cache::used(&path);
    } else {
        // Written beside its place and then moved there, so that an interrupted run leaves nothing half done.
        let half = tempfile::NamedTempFile::new_in(&images).context("cannot make an image")?;
        fs::write(half.path(), &bytes).context("cannot write an image")?;
        half.persist(&path).context("cannot keep an image")?;
    }
    Ok(path)
}

/// The directories that a file is in, the outermost first.
fn ancestors(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(end, _)| &name[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_in_all_its_directories() {
        let found: Vec<_> = ancestors("usr/bin/qemu").collect();
        assert_eq!(found, ["usr", "usr/bin"]);
        assert_eq!(ancestors("init").count(), 0);
    }
}
