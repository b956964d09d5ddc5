//! Programs that some steps need: installed where that is allowed, else named with the command that
//! provides them.

use std::process::{Command, Stdio};

/// The target of the arm64 checks. Nothing of them is linked, so that no C compiler is needed.
pub(crate) const ARM64: &str = "aarch64-unknown-linux-gnu";

/// Makes sure that the standard library for arm64 is there.
///
/// # Errors
///
/// Says how to get it.
pub(crate) fn arm64_target() -> Result<(), String> {
    let installed = || {
        let mut rustc = Command::new("rustc");
        let output = rustc
            .args(["--target", ARM64, "--print", "target-libdir"])
            .output();
        output.is_ok_and(|output| {
            let directory = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success() && std::path::Path::new(&directory).is_dir()
        })
    };
    if installed() || (quiet("rustup", &["target", "add", ARM64]) && installed()) {
        return Ok(());
    }
    Err(format!(
        "`rustup target add {ARM64}` provides what it needs"
    ))
}

/// Makes sure that iasl is there, to hold ACPI tables against.
///
/// # Errors
///
/// Says how to get it.
pub(crate) fn iasl() -> Result<(), String> {
    let found = pagemend_lab_host::program("iasl", "acpica-tools");
    found.map(drop).map_err(|error| format!("{error:#}"))
}

/// Runs a program without its output, and says whether it succeeded.
fn quiet(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
