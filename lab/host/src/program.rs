//! Builds the guest's program, linked statically since its machine has no libraries, and asks it for its scenarios.

use crate::kernel::output;
use crate::options::Options;
use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::{ScenarioInfo, decode};
use std::path::PathBuf;
use std::process::Command;

/// Builds the program and says where it is.
pub(crate) fn build(options: &Options) -> Result<PathBuf> {
    let target = options.arch.target();
    // A directory of its own: the linking differs, and a shared one would be rebuilt at every turn.
    let directory = options.cache.join("build");
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.to_uppercase().replace('-', "_")
    );
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            &options.program,
        ])
        .args(["--target", target])
        .arg("--target-dir")
        .arg(&directory)
        .env(flags, "-C target-feature=+crt-static")
        .current_dir(&options.workspace)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!(
            "the lab's guest program does not build; a static one needs the C library as an archive, on Debian: apt-get install libc6-dev"
        );
    }
    Ok(directory
        .join(target)
        .join("release")
        .join(&options.program))
}

/// What the program can do.
pub(crate) fn scenarios(program: &PathBuf) -> Result<Vec<ScenarioInfo>> {
    output(Command::new(program).arg("list"))?
        .lines()
        .map(|line| decode(line).context("the guest program lists scenarios that cannot be read"))
        .collect()
}
