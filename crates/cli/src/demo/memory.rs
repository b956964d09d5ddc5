//! Which memory the guest gets: the best that this machine has, with the reason why not better.

use std::sync::Arc;

use pagemend::probe::{Host, Pool};
use pagemend::{GuestMemory, MemoryError, PageSize, available_memory};
use serde::Serialize;

use super::error::DemoError;
use crate::chain;
use crate::pages::Pages;
use crate::pool::GrownPool;
use crate::size::Size;

/// What is used unless said otherwise: enough pages for errors to fall into different ones, and
/// little enough to be checked many times a second.
const DEFAULT_BYTES: u64 = 256 << 20;

fn default_bytes(pages: Pages) -> u64 {
    match pages {
        Pages::Huge1G => 2 << 30,
        _ => DEFAULT_BYTES,
    }
}

/// What was not taken.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PassedOver {
    pub(super) memory: String,
    pub(super) why: String,
}

/// Guest memory, and how it came to be chosen.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) pages: Pages,
    pub(super) passed_over: Vec<PassedOver>,
    pub(super) memory: Arc<GuestMemory>,
    // Behind the memory, because the pool can shrink only when its pages are back in it.
    pub(super) pool: Option<GrownPool>,
}

/// What is wanted of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) pages: Option<Pages>,
    pub(super) bytes: Option<u64>,
    /// Errors for which there must be replacements: none where pages are not replaced.
    pub(super) replacements: u64,
}

impl Wanted {
    /// Gets what was asked for, or else the best there is.
    pub(super) fn choose(self) -> Result<Chosen, DemoError> {
        if self.bytes == Some(0) {
            return Err(DemoError::NoMemory);
        }
        if let Some(pages) = self.pages {
            return self.get(pages, true);
        }
        let mut passed_over = vec![];
        let mut last = None;
        for pages in Pages::BEST_FIRST {
            // A gigabyte in one piece is got by moving everybody else's memory about: only for
            // those who ask for it.
            match self.get(pages, pages != Pages::Huge1G) {
                Ok(chosen) => {
                    return Ok(Chosen {
                        passed_over,
                        ..chosen
                    });
                }
                Err(error) => {
                    passed_over.push(PassedOver {
                        memory: pages.kind().to_string(),
                        why: chain(&error),
                    });
                    last = Some(error);
                }
            }
        }
        Err(last.expect("there is more than one choice"))
    }

    fn get(self, pages: Pages, may_grow: bool) -> Result<Chosen, DemoError> {
        let bytes = self.bytes.unwrap_or_else(|| default_bytes(pages));
        if pages == Pages::Transparent && !has_transparent_huge_pages() {
            return Err(DemoError::NoTransparentHugePages);
        }
        let page = pages.kind().page_size();
        if !bytes.is_multiple_of(page.bytes()) {
            return Err(MemoryError::Size {
                len: bytes,
                page_size: page,
            }
            .into());
        }
        let missing = match pages.pool() {
            Some(size) => missing(size, bytes)?,
            None => 0,
        };
        self.check_room(pages, bytes, missing)?;
        let (memory, pool) = match GuestMemory::new(pages.kind(), bytes) {
            Err(shortage @ MemoryError::PoolTooSmall { page_size, .. }) if may_grow => {
                let pool = GrownPool::grow(page_size, missing, shortage)?;
                (GuestMemory::new(pages.kind(), bytes)?, Some(pool))
            }
            Err(shortage @ MemoryError::PoolTooSmall { .. }) => {
                return Err(DemoError::PoolNotGrown(shortage));
            }
            memory => (memory?, None),
        };
        Ok(Chosen {
            pages,
            passed_over: vec![],
            memory: Arc::new(memory),
            pool,
        })
    }

    /// Whether what does not come from a pool can be had, before the kernel ends somebody for it.
    fn check_room(self, pages: Pages, bytes: u64, missing: u64) -> Result<(), DemoError> {
        let (mut needed, mut available) = match pages.pool() {
            Some(size) => {
                let replaced = self.replacements.min(bytes / size.bytes());
                let spare = Pool::of(PageSize::SIZE_2M).map_or(0, |pool| pool.spare());
                let pooled = match size {
                    PageSize::SIZE_1G => spare << PageSize::SIZE_2M.shift(),
                    _ => 0,
                };
                ((missing + replaced).saturating_mul(size.bytes()), pooled)
            }
            None => (bytes, 0),
        };
        // Others live here too.
        needed = needed.saturating_add(needed / 8);
        available += available_memory().unwrap_or(u64::MAX / 2);
        match needed > available {
            true => Err(DemoError::TooLarge {
                needed: Size(needed),
                available: Size(available),
            }),
            false => Ok(()),
        }
    }
}

/// Pages that the pool lacks.
fn missing(size: PageSize, bytes: u64) -> Result<u64, MemoryError> {
    let pool = Pool::of(size).ok_or(MemoryError::NoPool { page_size: size })?;
    Ok((bytes / size.bytes()).saturating_sub(pool.spare()))
}

fn has_transparent_huge_pages() -> bool {
    let host = Host::read();
    let own_tmpfs = host.calls.memory.huge_tmpfs.block_size;
    let memfds = host.files.thp.shmem_enabled.as_deref();
    own_tmpfs.is_some_and(|size| size > PageSize::SIZE_4K.bytes())
        || matches!(memfds, Some("always" | "within_size" | "advise" | "force"))
}
