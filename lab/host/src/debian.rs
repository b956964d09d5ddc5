//! What the lab takes from Debian: programs, installed if that is allowed, and packages to look into. A fresh machine has no lists of packages, so where apt fails they are fetched, once, and it is asked again; who may not do that is told the commands.

use crate::kernel::output;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where programs for root are, which `PATH` need not name.
const FOR_ROOT: &str = "/usr/sbin:/sbin";

/// The path of a program. One that is not there is installed, with its package, if that is allowed.
///
/// # Errors
/// It is not there and cannot be installed: the text has the commands.
pub fn program(name: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = find(name) {
        return Ok(path);
    }
    let install = ["install", "--yes", "--no-install-recommends", package];
    let needs = format!(
        "{name} is needed; as root: apt-get update && apt-get {}",
        install.join(" ")
    );
    if !root() {
        bail!(needs);
    }
    eprintln!("lab: installing {package}");
    let apt = Apt::of_system();
    apt.or_with_new_lists(|| apt.get(&install, Path::new("/")))
        .with_context(|| needs)?;
    find(name).with_context(|| format!("{package} is installed and has no {name}"))
}

fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(std::env::split_paths(FOR_ROOT))
        .map(|place| place.join(name))
        .find(|path| path.is_file())
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// apt, with these settings.
#[derive(Debug)]
pub(crate) struct Apt {
    settings: Vec<String>,
}

impl Apt {
    /// As it is set up here.
    pub(crate) fn of_system() -> Self {
        Self {
            settings: Vec::new(),
        }
    }

    /// With sources of its own, the lists of which are in `place`, so that the system's stay as they are.
    pub(crate) fn apart(place: &Path, sources: &str) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(place.join(part))
                .with_context(|| format!("cannot create {part} in {}", place.display()))?;
        }
        let place = place.canonicalize()?;
        let list = place.join("sources.list");
        fs::write(&list, sources).with_context(|| format!("cannot write {}", list.display()))?;
        let settings = [
            format!("Dir::Etc::SourceList={}", list.display()),
            "Dir::Etc::SourceParts=/dev/null".into(),
            format!("Dir::State::Lists={}", place.join("lists").display()),
            format!("Dir::Cache={}", place.join("cache").display()),
            "APT::Sandbox::User=root".into(),
        ]
        .into_iter()
        .flat_map(|setting| ["-o".to_owned(), setting])
        .collect();
        let apt = Self { settings };
        apt.update()?;
        Ok(apt)
    }

    /// Where it has Debian's packages from, whether its lists are there or not.
    pub(crate) fn debian(&self) -> Result<String> {
        let mut targets = Command::new("apt-get");
        targets.args(&self.settings).args([
            "indextargets",
            "--no-release-info",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
        ]);
        let targets = output(&mut targets)?;
        let found = debian(&targets).map(ToOwned::to_owned);
        found.context("apt's sources have no Debian repository")
    }

    /// What `apt-cache` knows. That it knows nothing for want of lists is an error.
    pub(crate) fn known(&self, arguments: &[&str]) -> Result<String> {
        let mut lists = Command::new("apt-get");
        lists.args(&self.settings).arg("indextargets");
        if output(&mut lists)?.is_empty() {
            bail!("apt has no lists of packages");
        }
        output(
            Command::new("apt-cache")
                .args(&self.settings)
                .args(arguments),
        )
    }

    /// Has `apt-get` do something, in this directory.
    pub(crate) fn get(&self, arguments: &[&str], directory: &Path) -> Result<String> {
        output(
            Command::new("apt-get")
                .args(&self.settings)
                .arg("--quiet")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive")
                .current_dir(directory),
        )
    }

    /// Does something with the system's apt, with new lists if it fails.
    pub(crate) fn or_with_new_lists<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        once_more(attempt, || {
            if !root() {
                bail!("as root: apt-get update");
            }
            eprintln!("lab: apt-get update");
            self.update()
        })
    }

    fn update(&self) -> Result<()> {
        self.get(&["update"], Path::new("/")).map(drop)
    }
}

/// The address of a Debian repository among others: that of its security updates, say, which has another name.
fn debian(addresses: &str) -> Option<&str> {
    let name = |address: &&str| address.trim_end_matches('/').rsplit('/').next() == Some("debian");
    addresses.lines().find(name)
}

/// Does what may fail, and if it does once more after this. Where that is not possible, either error says something.
fn once_more<T>(attempt: impl Fn() -> Result<T>, update: impl FnOnce() -> Result<()>) -> Result<T> {
    attempt().or_else(|first| {
        update().with_context(|| format!("{first:#}"))?;
        attempt()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn what_fails_for_want_of_lists_is_done_again_with_them() {
        let lists = Cell::new(0);
        let attempt = || match lists.get() {
            0 => bail!("unable to locate it"),
            lists => Ok(lists),
        };
        let update = || {
            lists.set(lists.get() + 1);
            Ok(())
        };
        assert_eq!(once_more(attempt, update).unwrap(), 1);
        // What works needs none.
        assert_eq!(once_more(attempt, update).unwrap(), 1);
    }

    #[test]
    fn who_cannot_fetch_lists_hears_what_is_missing_and_the_command() {
        let attempt = || -> Result<()> { bail!("unable to locate it") };
        let error = once_more(attempt, || bail!("as root: apt-get update")).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "unable to locate it: as root: apt-get update"
        );
    }

    #[test]
    fn debian_is_known_by_its_name_wherever_it_is() {
        let addresses = "https://a.example/debian-security/\nhttps://b.example/mirror/debian/\nhttps://c.example/other/\n";
        assert_eq!(debian(addresses), Some("https://b.example/mirror/debian/"));
        assert_eq!(debian("https://c.example/other/\n"), None);
    }

    #[test]
    fn a_program_is_found_where_path_or_root_has_it() {
        assert!(find("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find("no-such-program-of-the-lab"), None);
    }
}
