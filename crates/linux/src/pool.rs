//! Getting more huge pages from the kernel, for those who may.

use std::fs;
use std::io;

use pagemend_core::address::PageSize;

use crate::probe::Pool;

/// Sets how many huge pages of a size there are, which needs a privilege, and gives how many there
/// are then: the kernel does what it can.
pub fn resize_pool(page_size: PageSize, pages: u64) -> io::Result<u64> {
    let pool = Pool::of(page_size).ok_or(io::ErrorKind::NotFound)?;
    let file = format!("/sys/kernel/mm/hugepages/{}/nr_hugepages", pool.directory());
    fs::write(file, pages.to_string())?;
    Pool::of(page_size)
        .map(|pool| pool.total)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}
