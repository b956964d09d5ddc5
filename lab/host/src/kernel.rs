//! Finds a kernel to boot: the user's own by path, or a distribution's by version, downloaded but never installed.

use crate::options::Arch;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel and its modules.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    pub(crate) modules: Option<PathBuf>,
}

/// Where Debian's newest kernels are, for versions that the system's own sources lack.
const NEWEST: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian sid main\n";

/// Finds what the user asked for: a path, or a version.
pub(crate) fn find(wanted: &str, arch: Arch, cache: &Path) -> Result<Kernel> {
    let path = Path::new(wanted);
    if path.is_dir() {
        return in_tree(path);
    }
    if path.is_file() {
        if path.extension().is_some_and(|extension| extension == "deb") {
            return unpack(path, cache);
        }
        return Ok(image(path));
    }
    if wanted.contains('/') {
        bail!("there is no kernel at {wanted}");
    }
    let kernels = cache.join("kernels");
    fs::create_dir_all(&kernels).with_context(|| format!("cannot create {}", kernels.display()))?;
    if let Some(package) = cached(&kernels, wanted, arch) {
        return unpack(&package, cache);
    }
    download(wanted, arch, &kernels)?;
    let package = cached(&kernels, wanted, arch)
        .with_context(|| format!("the download of Linux {wanted} left no package behind"))?;
    unpack(&package, cache)
}

/// A kernel image by itself; its modules are where the system has them for a kernel of this name.
fn image(path: &Path) -> Kernel {
    let modules = path
        .file_name()
        .and_then(|name| name.to_str()?.split_once('-'))
        .map(|(_, release)| Path::new("/lib/modules").join(release))
        .filter(|modules| modules.is_dir());
    Kernel {
        image: path.to_owned(),
        modules,
    }
}

/// A directory as a kernel package has it.
fn in_tree(tree: &Path) -> Result<Kernel> {
    let boot = tree.join("boot");
    let image = entries(&boot)?
        .into_iter()
        .find(|path| name(path).starts_with("vmlinuz-"))
        .with_context(|| format!("there is no vmlinuz-* in {}", boot.display()))?;
    let release = name(&image).trim_start_matches("vmlinuz-").to_owned();
    let modules = ["lib/modules", "usr/lib/modules"]
        .map(|place| tree.join(place).join(&release))
        .into_iter()
        .find(|modules| modules.is_dir());
    Ok(Kernel { image, modules })
}

fn unpack(package: &Path, cache: &Path) -> Result<Kernel> {
    let tree = cache
        .join("kernels")
        .join(name(package).trim_end_matches(".deb"));
    if !tree.is_dir() {
        // Unpacked beside its place and then moved there, so that an interrupted run leaves nothing half done.
        let half = tempfile::tempdir_in(cache).context("cannot make a directory to unpack into")?;
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("--extract").arg(package).arg(half.path());
        output(&mut dpkg)?;
        fs::create_dir_all(cache.join("kernels"))?;
        fs::rename(half.keep(), &tree)
            .with_context(|| format!("cannot move the kernel to {}", tree.display()))?;
    }
    in_tree(&tree)
}

/// The newest package of this version that an earlier run downloaded.
fn cached(kernels: &Path, version: &str, arch: Arch) -> Option<PathBuf> {
    let packages = entries(kernels).ok()?;
    packages
        .into_iter()
        .filter(|path| {
            path.extension().is_some_and(|extension| extension == "deb")
                && name(path)
                    .split_once('_')
                    .is_some_and(|(package, _)| fits(package, version, arch))
        })
        .max_by_key(|path| numbers(&name(path)))
}

fn download(version: &str, arch: Arch, kernels: &Path) -> Result<()> {
    for newest in [false, true] {
        let settings = if newest {
            newest_sources(kernels)?
        } else {
            Vec::new()
        };
        let mut search = Command::new("apt-cache");
        let pattern = format!("^linux-image-{}", version.replace('.', "\\."));
        search
            .args(&settings)
            .args(["search", "--names-only", &pattern]);
        let found = output(&mut search).with_context(|| {
            format!("a kernel by version needs apt; give the path of one instead of {version}")
        })?;
        let package = found
            .lines()
            .filter_map(|line| line.split(' ').next())
            .filter(|package| fits(package, version, arch))
            .max_by_key(|package| numbers(package));
        if let Some(package) = package {
            eprintln!("lab: downloading {package}");
            let mut get = Command::new("apt-get");
            get.args(&settings)
                .args(["download", "--quiet", package])
                .current_dir(kernels);
            output(&mut get)?;
            return Ok(());
        }
    }
    bail!(
        "no Debian package of Linux {version} was found; `apt-get update` as root may help, or give the path of a kernel"
    )
}

/// apt's settings to look at Debian's newest packages without touching the system's own lists.
fn newest_sources(kernels: &Path) -> Result<Vec<String>> {
    let own = kernels.with_file_name("apt");
    for place in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(own.join(place))
            .with_context(|| format!("cannot create {place} in {}", own.display()))?;
    }
    let own = own.canonicalize()?;
    let list = own.join("sources.list");
    fs::write(&list, NEWEST).with_context(|| format!("cannot write {}", list.display()))?;
    let settings = [
        format!("Dir::Etc::SourceList={}", list.display()),
        "Dir::Etc::SourceParts=/dev/null".into(),
        format!("Dir::State::Lists={}", own.join("lists").display()),
        format!("Dir::Cache={}", own.join("cache").display()),
        "APT::Sandbox::User=root".into(),
    ]
    .into_iter()
    .flat_map(|setting| ["-o".to_owned(), setting])
    .collect::<Vec<_>>();
    output(
        Command::new("apt-get")
            .args(&settings)
            .args(["--quiet", "update"]),
    )?;
    Ok(settings)
}

/// Whether a package is the plain kernel of this version: no debug symbols, no real-time or cloud variant, no meta-package.
fn fits(package: &str, version: &str, arch: Arch) -> bool {
    let Some(rest) = package.strip_prefix("linux-image-") else {
        return false;
    };
    let Some(release) = rest
        .strip_suffix(arch.debian())
        .and_then(|r| r.strip_suffix('-'))
    else {
        return false;
    };
    let plain = !["-rt", "-cloud", "-unsigned", "-dbg"]
        .iter()
        .any(|variant| rest.contains(variant));
    let same = release == version
        || release
            .strip_prefix(version)
            .is_some_and(|more| more.starts_with(['.', '+', '-']));
    let exact = release.split(['+', '-']).next().unwrap_or_default();
    plain && same && exact.matches('.').count() == 2
}

/// The numbers in a name, which order versions as people do.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("cannot look into {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Runs a command to its end and gives what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let what = format!("{command:?}").replace('"', "");
    let output = command
        .output()
        .with_context(|| format!("cannot run `{what}`"))?;
    if !output.status.success() {
        bail!(
            "`{what}` ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plain_kernel_of_a_version_fits() {
        let fits = |package| fits(package, "6.12", Arch::X86_64);
        assert!(fits("linux-image-6.12.117+deb12-amd64"));
        assert!(fits("linux-image-6.12.9-amd64"));
        for other in [
            "linux-image-6.12.117+deb12-amd64-dbg",
            "linux-image-6.12.117+deb12-amd64-unsigned",
            "linux-image-6.12.117+deb12-rt-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12-amd64",
            "linux-image-6.121.1-amd64",
            "linux-image-6.12.117+deb12-arm64",
        ] {
            assert!(!fits(other), "{other}");
        }
    }

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        assert!(numbers("linux-image-6.12.117+deb12") > numbers("linux-image-6.12.99+deb12"));
    }
}
