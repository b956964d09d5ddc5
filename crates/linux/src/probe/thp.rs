//! Transparent huge pages: the second rung of the ladder when a huge page is rebuilt.

use pagemend_core::address::PageSize;
use serde::Serialize;

use super::tree::Tree;

/// Settings under /sys/kernel/mm/transparent_hugepage; `None` where the kernel has no such file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Thp {
    /// `enabled`: always, madvise or never, for anonymous memory.
    pub enabled: Option<String>,
    /// `defrag`: how hard a fault tries to get one.
    pub defrag: Option<String>,
    /// `shmem_enabled`: always, within_size, advise, never, deny or force, for memfds and shared
    /// anonymous memory.
    pub shmem_enabled: Option<String>,
    /// `khugepaged/defrag`: whether the daemon that collapses pages may compact memory for it.
    pub khugepaged_defrag: Option<bool>,
    /// `hpage_pmd_size`: bytes in one.
    pub size: Option<PageSize>,
}

const THP: &str = "/sys/kernel/mm/transparent_hugepage";

impl Thp {
    pub(super) fn read(tree: &Tree<'_>) -> Self {
        let size = format!("{THP}/hpage_pmd_size");
        Self {
            enabled: chosen(tree, "enabled"),
            defrag: chosen(tree, "defrag"),
            shmem_enabled: chosen(tree, "shmem_enabled"),
            khugepaged_defrag: tree
                .number::<u32>(&format!("{THP}/khugepaged/defrag"))
                .map(|value| value != 0),
            size: tree.number(&size).and_then(PageSize::from_bytes),
        }
    }
}

/// The choice in brackets, as in `always [madvise] never`.
fn chosen(tree: &Tree<'_>, file: &str) -> Option<String> {
    let path = format!("{THP}/{file}");
    let text = tree.text(&path)?;
    let choice = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    if choice.is_none() {
        tree.complain(&path, format!("expected one choice in brackets: {text:?}"));
    }
    choice.map(str::to_owned)
}
