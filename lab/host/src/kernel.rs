//! Finds a kernel to boot: the user's own by path, or a distribution's by version, downloaded but never installed.

use crate::debian::Apt;
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

/// Whose signature Debian's packages have.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
    let tree = match cached(&kernels, wanted, arch) {
        Some(tree) => tree,
        None => download(wanted, arch, &kernels)?,
    };
    in_tree(&tree)
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

/// A directory as kernel packages have it: the image in `boot/`, or with the modules.
fn in_tree(tree: &Path) -> Result<Kernel> {
    let places = ["lib/modules", "usr/lib/modules"];
    let modules = places
        .iter()
        .filter_map(|place| entries(&tree.join(place)).ok()?.into_iter().next())
        .next();
    let image = entries(&tree.join("boot"))
        .unwrap_or_default()
        .into_iter()
        .find(|path| name(path).starts_with("vmlinuz-"))
        .or_else(|| modules.as_ref().map(|modules| modules.join("vmlinuz")))
        .filter(|image| image.is_file())
        .with_context(|| {
            format!(
                "there is no kernel image in {}: no boot/vmlinuz-*, no lib/modules/*/vmlinuz",
                tree.display()
            )
        })?;
    Ok(Kernel { image, modules })
}

/// A package that the user has.
fn unpack(package: &Path, cache: &Path) -> Result<Kernel> {
    let kernels = cache.join("kernels");
    fs::create_dir_all(&kernels).with_context(|| format!("cannot create {}", kernels.display()))?;
    let tree = kernels.join(name(package).trim_end_matches(".deb"));
    if !tree.is_dir() {
        extract(&[package.to_owned()], &tree)?;
    }
    in_tree(&tree)
}

/// Unpacks packages into one tree: beside its place first and then moved there, so that an interrupted run leaves nothing half done.
fn extract(packages: &[PathBuf], tree: &Path) -> Result<()> {
    let kernels = tree.parent().context("a kernel has a place")?;
    let half = tempfile::tempdir_in(kernels).context("cannot make a directory to unpack into")?;
    for package in packages {
        let mut dpkg = Command::new("dpkg-deb");
        dpkg.arg("--extract").arg(package).arg(half.path());
        output(&mut dpkg)?;
    }
    fs::rename(half.keep(), tree)
        .with_context(|| format!("cannot move the kernel to {}", tree.display()))
}

/// The newest kernel of this version that an earlier run downloaded.
fn cached(kernels: &Path, version: &str, arch: Arch) -> Option<PathBuf> {
    entries(kernels)
        .ok()?
        .into_iter()
        .filter(|path| path.is_dir() && fits(&name(path), version, arch))
        .max_by_key(|path| numbers(&name(path)))
}

fn download(version: &str, arch: Arch, kernels: &Path) -> Result<PathBuf> {
    let system = Apt::of_system();
    let here = system.or_with_new_lists(|| fetch(&system, version, arch, kernels));
    if let Ok(Some(tree)) = here {
        return Ok(tree);
    }
    let newest = newest(&system, &kernels.with_file_name("apt"))
        .and_then(|apt| fetch(&apt, version, arch, kernels));
    if let Ok(Some(tree)) = newest {
        return Ok(tree);
    }
    here.and(newest).with_context(|| {
        format!("a kernel by version needs apt; give the path of one instead of {version}")
    })?;
    bail!(
        "no Debian package of Linux {version} was found; `apt-get update` as root may help, or give the path of a kernel"
    )
}

/// Debian's newest packages, for versions that the system's own sources lack, from the repository that they name.
fn newest(system: &Apt, place: &Path) -> Result<Apt> {
    let repository = system.debian()?;
    Apt::apart(
        place,
        &format!("deb [signed-by={KEYRING}] {repository} sid main\n"),
    )
}

/// Downloads the newest kernel of this version and unpacks it, if apt knows one.
fn fetch(apt: &Apt, version: &str, arch: Arch, kernels: &Path) -> Result<Option<PathBuf>> {
    let pattern = format!("^linux-image-{}", version.replace('.', "\\."));
    let found = apt.known(&["search", "--names-only", &pattern])?;
    let package = found
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|package| fits(package, version, arch))
        .max_by_key(|package| numbers(package));
    let Some(package) = package else {
        return Ok(None);
    };
    eprintln!("lab: downloading {package}");
    get(apt, package, kernels).map(Some)
}

/// Downloads a kernel's package, with those that newer ones are split into, and unpacks them.
fn get(apt: &Apt, package: &str, kernels: &Path) -> Result<PathBuf> {
    let place = tempfile::tempdir_in(kernels).context("cannot make a directory to download to")?;
    let facts = apt.known(&["show", "--no-all-versions", package])?;
    let parts = parts(&facts);
    let wanted = ["download", package]
        .into_iter()
        .chain(parts.iter().map(String::as_str));
    apt.get(&wanted.collect::<Vec<_>>(), place.path())?;
    let tree = kernels.join(package);
    extract(&entries(place.path())?, &tree)?;
    Ok(tree)
}

/// What a kernel package has put into packages of their own: the image and the modules.
fn parts(facts: &str) -> Vec<String> {
    facts
        .lines()
        .filter_map(|line| line.strip_prefix("Depends:"))
        .flat_map(|list| list.split([',', '|']))
        .filter_map(|dependency| dependency.split_whitespace().next())
        .filter(|name| {
            ["linux-binary-", "linux-modules-"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        })
        .map(ToOwned::to_owned)
        .collect()
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
    fn a_path_is_an_image_or_a_tree_with_one_and_never_a_version() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("tree");
        let modules = tree.join("lib/modules/6.6.6-lab");
        fs::create_dir_all(&modules).unwrap();
        let find = |path: &Path| find(path.to_str().unwrap(), Arch::X86_64, place.path());
        let without = find(&tree).unwrap_err().to_string();
        assert!(without.contains("no kernel image"), "{without}");

        fs::create_dir(tree.join("boot")).unwrap();
        let image = tree.join("boot/vmlinuz-6.6.6-lab");
        fs::write(&image, "").unwrap();
        let whole = find(&tree).unwrap();
        assert_eq!((whole.image, whole.modules), (image.clone(), Some(modules)));
        let alone = find(&image).unwrap();
        assert_eq!((alone.image, alone.modules), (image, None));

        let missing = find(&place.path().join("6.12")).unwrap_err().to_string();
        assert!(missing.contains("there is no kernel at"), "{missing}");
    }

    #[test]
    fn a_kernel_in_several_packages_is_fetched_whole() {
        let facts = "Package: linux-image-7.2.13\nDepends: dracut | initramfs-tools (>= 1), linux-binary-7.2.13 (= 7.2.13-1), linux-modules-7.2.13 (= 7.2.13-1)\n";
        assert_eq!(
            parts(facts),
            ["linux-binary-7.2.13", "linux-modules-7.2.13"]
        );
    }

    #[test]
    fn versions_are_ordered_by_their_numbers() {
        assert!(numbers("linux-image-6.12.117+deb12") > numbers("linux-image-6.12.99+deb12"));
    }
}
