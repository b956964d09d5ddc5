//! The firmware's error tables, because they decide which errors ever reach the kernel.

use serde::Serialize;

use super::tree::Tree;

/// Which ACPI Platform Error Interface tables there are (ACPI specification, chapter 18).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Apei {
    /// Hardware Error Source Table: errors reported while running.
    pub hest: bool,
    /// Boot Error Record Table: the error that ended the boot before.
    pub bert: bool,
    /// Error Record Serialization Table: records kept across a reboot.
    pub erst: bool,
    /// Error Injection Table: errors made by the hardware on request.
    pub einj: bool,
}

impl Apei {
    pub(super) fn read(tree: &Tree<'_>) -> Self {
        let present = |table: &str| tree.exists(&format!("/sys/firmware/acpi/tables/{table}"));
        Self {
            hest: present("HEST"),
            bert: present("BERT"),
            erst: present("ERST"),
            einj: present("EINJ"),
        }
    }

    /// The names of those present.
    pub fn names(&self) -> Vec<&'static str> {
        [
            (self.hest, "HEST"),
            (self.bert, "BERT"),
            (self.erst, "ERST"),
            (self.einj, "EINJ"),
        ]
        .into_iter()
        .filter_map(|(present, name)| present.then_some(name))
        .collect()
    }
}
