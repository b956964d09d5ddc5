//! Builds the programs of the machines, linked statically since those have no libraries, and asks the guest's for its scenarios.

use crate::kernel::output;
use crate::options::{Options, Program};
use anyhow::{Context, Result, bail};
use pagemend_lab_protocol::{ScenarioInfo, decode};
use std::path::PathBuf;
use std::process::Command;

/// Builds the guest's program and says where it is.
pub(crate) fn build(options: &Options) -> Result<PathBuf> {
    let program = Program {
        package: options.program.clone(),
        binary: options.program.clone(),
    };
    build_static(options, &program)
}

/// What runs virtual machines in a machine.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) vmm: PathBuf,
    pub(crate) walker: PathBuf,
}

/// Builds what runs virtual machines in a machine, and says where it is.
pub(crate) fn build_inside(options: &Options) -> Result<Inside> {
    Ok(Inside {
        vmm: build_static(options, &options.inside.vmm)?,
        walker: build_static(options, &options.inside.guest)?,
    })
}

fn build_static(options: &Options, program: &Program) -> Result<PathBuf> {
    let target = options.arch.target();
    // A directory of its own: the linking differs, and a shared one would be rebuilt at every turn.
    let directory = options.cache.join("build");
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.to_uppercase().replace('-', "_")
    );
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--release"])
        .args(["--package", &program.package, "--bin", &program.binary])
        .args(["--target", target])
        .arg("--target-dir")
        .arg(&directory)
        .env(flags, "-C target-feature=+crt-static")
        .current_dir(&options.workspace)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!(
            "the lab's program {} does not build; a static one needs the C library as an archive, on Debian: apt-get install libc6-dev",
            program.binary
        );
    }
    Ok(directory.join(target).join("release").join(&program.binary))
}

/// What the program can do.
pub(crate) fn scenarios(program: &PathBuf) -> Result<Vec<ScenarioInfo>> {
    output(Command::new(program).arg("list"))?
        .lines()
        .map(|line| decode(line).context("the guest program lists scenarios that cannot be read"))
        .collect()
}
