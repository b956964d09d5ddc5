//! Files below a root directory, because a fixture tree stands in for a host in tests; and because
//! a file that is there and makes no sense must be told, not taken for one that is missing.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;

/// A file that is there and could not be read or understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// The file, as the host names it.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The files of one host.
pub(super) struct Tree<'a> {
    root: &'a Path,
    unreadable: RefCell<Vec<Unreadable>>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self {
            root,
            unreadable: RefCell::default(),
        }
    }

    pub(super) fn into_unreadable(self) -> Vec<Unreadable> {
        self.unreadable.into_inner()
    }

    fn locate(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Records that the file at `path` is there and no use.
    pub(super) fn complain(&self, path: &str, reason: impl ToString) {
        self.unreadable.borrow_mut().push(Unreadable {
            path: path.to_owned(),
            reason: reason.to_string(),
        });
    }

    fn found<T>(&self, path: &str, outcome: io::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            // A process that ends between listing and reading leaves ESRCH behind.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                None
            }
            Err(error) => {
                self.complain(path, error);
                None
            }
        }
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.locate(path).exists()
    }

    pub(super) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.found(path, fs::read(self.locate(path)))
    }

    /// The file's text without the white space around it.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let text = self.found(path, fs::read_to_string(self.locate(path)))?;
        Some(text.trim().to_owned())
    }

    /// The number that the file holds.
    pub(super) fn number<T: FromStr>(&self, path: &str) -> Option<T> {
        let text = self.text(path)?;
        let number = text.parse().ok();
        if number.is_none() {
            self.complain(path, format!("expected a number, found {text:?}"));
        }
        number
    }

    /// The names in a directory, sorted; none where there is no such directory.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = self.found(path, fs::read_dir(self.locate(path)));
        let mut names: Vec<_> = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// The NUMA nodes that have a directory, ascending.
    pub(super) fn nodes(&self) -> Vec<u32> {
        let mut nodes: Vec<u32> = self
            .names("/sys/devices/system/node")
            .iter()
            .filter_map(|name| name.strip_prefix("node")?.parse().ok())
            .collect();
        nodes.sort_unstable();
        nodes
    }
}
