//! Huge pages for a benchmark, given back at its end.

use pagemend_core::address::PageSize;
use pagemend_linux::probe::Pool;
use pagemend_linux::resize_pool;

/// Pages that a pool was grown by.
pub(crate) struct Grown {
    page_size: PageSize,
    pages: u64,
}

/// Sees to it that `pages` of a pool can be had, or says why the benchmark is skipped.
pub(crate) fn need(page_size: PageSize, pages: u64) -> Option<Grown> {
    let Some(pool) = Pool::of(page_size) else {
        println!("skipped: this kernel has no huge pages of {page_size}");
        return None;
    };
    let missing = pages.saturating_sub(pool.spare());
    if missing > 0 {
        let wanted = pool.total + missing;
        if resize_pool(page_size, wanted).ok() != Some(wanted) {
            println!("skipped: the pool of {page_size} pages lacks {missing} and cannot be grown");
            return None;
        }
    }
    Some(Grown {
        page_size,
        pages: missing,
    })
}

impl Drop for Grown {
    fn drop(&mut self) {
        if self.pages == 0 {
            return;
        }
        // Others may have resized it meanwhile, so it is shrunk by what was added here.
        if let Some(pool) = Pool::of(self.page_size) {
            let before = pool.total.saturating_sub(self.pages);
            if let Err(error) = resize_pool(self.page_size, before) {
                println!("the pool of {} pages stays grown: {error}", self.page_size);
            }
        }
    }
}
