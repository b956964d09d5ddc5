//! HugeTLB pools: where guests on huge pages live, and where the pieces of a mended one come from.

use std::path::Path;

use pagemend_core::address::PageSize;
use serde::Serialize;

use super::tree::Tree;

/// The pool of one page size. All counts are pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// Bytes in a page.
    pub page_size: PageSize,
    /// Pages in the pool: `nr_hugepages`, which includes surplus ones.
    pub total: u64,
    /// Pages that nobody has touched yet: `free_hugepages`.
    pub free: u64,
    /// Free pages that are promised to a mapping: `resv_hugepages`.
    pub reserved: u64,
    /// Pages beyond the pool's fixed size, given back when freed: `surplus_hugepages`.
    pub surplus: u64,
    /// Limit of surplus pages: `nr_overcommit_hugepages`.
    pub overcommit: u64,
    /// The pool by NUMA node.
    pub nodes: Vec<NodePool>,
}

/// One node's share of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodePool {
    /// Number of the NUMA node.
    pub node: u32,
    /// Pages on the node.
    pub total: u64,
    /// Pages on the node that nobody has touched yet.
    pub free: u64,
    /// Surplus pages on the node.
    pub surplus: u64,
}

impl Pool {
    /// This host's pool of `page_size`, or `None` where its kernel has none.
    pub fn of(page_size: PageSize) -> Option<Self> {
        pools(&Tree::new(Path::new("/")))
            .into_iter()
            .find(|pool| pool.page_size == page_size)
    }

    /// Pages that can still be had: free and not promised, or surplus within the limit.
    pub fn spare(&self) -> u64 {
        self.free.saturating_sub(self.reserved) + self.overcommit.saturating_sub(self.surplus)
    }

    /// Whether the pool has, or may make, a page at all.
    pub fn is_usable(&self) -> bool {
        self.total > 0 || self.overcommit > 0
    }

    /// The pool's directory name in sysfs.
    pub fn directory(&self) -> String {
        format!("hugepages-{}kB", self.page_size.bytes() >> 10)
    }
}

const POOLS: &str = "/sys/kernel/mm/hugepages";

pub(super) fn pools(tree: &Tree<'_>) -> Vec<Pool> {
    let mut pools: Vec<_> = tree
        .names(POOLS)
        .iter()
        .filter_map(|name| pool(tree, name))
        .collect();
    pools.sort_by_key(|pool| pool.page_size);
    pools
}

fn pool(tree: &Tree<'_>, name: &str) -> Option<Pool> {
    let page_size = name
        .strip_prefix("hugepages-")
        .and_then(|name| name.strip_suffix("kB")?.parse::<u64>().ok())
        .and_then(|kib| PageSize::from_bytes(kib.checked_mul(1024)?));
    let Some(page_size) = page_size else {
        tree.complain(&format!("{POOLS}/{name}"), "names no page size");
        return None;
    };
    let count = |file: &str| tree.number(&format!("{POOLS}/{name}/{file}"));
    Some(Pool {
        page_size,
        total: count("nr_hugepages")?,
        free: count("free_hugepages")?,
        reserved: count("resv_hugepages")?,
        surplus: count("surplus_hugepages")?,
        overcommit: count("nr_overcommit_hugepages")?,
        nodes: tree
            .nodes()
            .into_iter()
            .filter_map(|node| {
                let path = format!("/sys/devices/system/node/node{node}/hugepages/{name}");
                let count = |file: &str| tree.number(&format!("{path}/{file}"));
                Some(NodePool {
                    node,
                    total: count("nr_hugepages")?,
                    free: count("free_hugepages")?,
                    surplus: count("surplus_hugepages")?,
                })
            })
            .collect(),
    })
}
