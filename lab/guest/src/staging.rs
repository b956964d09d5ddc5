//! Memory prepared beside the guest's: filled through one view, mapped in another whose gaps are poisoned.

use crate::memory::{KIB_4, Mapping};
use crate::userfault::Userfault;
use anyhow::{Context, Result};
use std::ops::Range;

/// The second view of a file, with every page of it mapped or poisoned.
pub(crate) struct Staged {
    pub(crate) view: Mapping,
    pub(crate) userfault: Userfault,
}

/// Registers a view and maps all of it but `lost`, offsets of pages of `unit` bytes, which are poisoned.
pub(crate) fn stage(view: Mapping, lost: &[usize], unit: usize) -> Result<Staged> {
    let base = view.base();
    let userfault = Userfault::user_mode().context("cannot open a userfaultfd")?;
    userfault
        .register(base..base + view.len())
        .context("cannot register the staged view")?;
    for range in between(lost, unit, view.len()) {
        userfault
            .continue_(base + range.start..base + range.end)
            .with_context(|| format!("UFFDIO_CONTINUE fails on {range:x?}"))?;
    }
    for &page in lost {
        userfault
            .poison(base + page..base + page + unit)
            .with_context(|| format!("UFFDIO_POISON fails at {page:#x}"))?;
    }
    Ok(Staged { view, userfault })
}

/// A view of a file of 4 KiB pages, staged.
pub(crate) fn stage_small(view: Mapping, lost: &[usize]) -> Result<Staged> {
    stage(view, lost, KIB_4)
}

/// What is left of `len` bytes without pages of `unit` bytes at `holes`, which are in order.
fn between(holes: &[usize], unit: usize, len: usize) -> Vec<Range<usize>> {
    let starts = std::iter::once(0).chain(holes.iter().map(|hole| hole + unit));
    let ends = holes.iter().copied().chain(std::iter::once(len));
    starts
        .zip(ends)
        .map(|(start, end)| start..end)
        .filter(|range| !range.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn ranges_between_holes_leave_out_the_holes_and_nothing_else() {
        let ends = |holes: &[usize]| -> Vec<_> {
            between(holes, 4, 12)
                .into_iter()
                .map(|r| (r.start, r.end))
                .collect()
        };
        assert_eq!(ends(&[]), [(0, 12)]);
        assert_eq!(ends(&[0, 8]), [(4, 8)]);
        assert_eq!(ends(&[4]), [(0, 4), (8, 12)]);
    }
}
