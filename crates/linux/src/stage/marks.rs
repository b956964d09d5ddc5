//! Lost frames in new memory. A mark takes 4 KiB pages around it, and has to outlast what others
//! do with the mapping that it is in.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use pagemend_core::address::{GpaRange, HvaRange, PageSize};

use super::{Part, Stage};
use crate::files::{Extent, Files, Kind};
use crate::mapping::{advise, set_apart};
use crate::uffd::Uffd;

impl Stage {
    /// Marks `lost`. A huge page cannot have a lost frame in it, so each stretch with one gets
    /// 4 KiB pages first.
    pub(crate) fn mark(
        &mut self,
        files: &Arc<Files>,
        uffd: &Uffd,
        lost: &[GpaRange],
    ) -> io::Result<()> {
        let page = self.target.page;
        let lost: Vec<(u64, u64)> = lost
            .iter()
            .map(|run| (run.start().get() - page.start().get(), run.len()))
            .collect();
        self.break_up(files, &lost)?;
        self.prepare(files, Some(uffd), Some(&lost))?;
        self.lost = lost;
        Ok(())
    }

    /// Gives stretches with lost frames 4 KiB pages, with what was salvaged in them.
    fn break_up(&mut self, files: &Arc<Files>, lost: &[(u64, u64)]) -> io::Result<()> {
        for part in std::mem::take(&mut self.parts) {
            if !part.page_size.is_huge() {
                self.parts.push(part);
                continue;
            }
            let step = part.page_size.bytes();
            for at in (part.at..part.at + part.len).step_by(step as usize) {
                let hit: Vec<_> = lost
                    .iter()
                    .filter(|run| overlap(**run, (at, step)))
                    .collect();
                if hit.is_empty() {
                    match self.parts.last_mut() {
                        Some(last) if last.extent == part.extent && last.at + last.len == at => {
                            last.len += step;
                        }
                        _ => self.parts.push(Part {
                            at,
                            len: step,
                            offset: part.offset + (at - part.at),
                            ..part
                        }),
                    }
                } else {
                    let small = files.extent(Kind::Shmem, step)?;
                    self.copy_healthy(&small, (at, step), lost)?;
                    self.extents[part.extent].give_back(part.offset + (at - part.at), step);
                    self.extents.push(small);
                    self.parts.push(Part {
                        at,
                        len: step,
                        page_size: PageSize::SIZE_4K,
                        kind: Kind::Shmem,
                        extent: self.extents.len() - 1,
                        offset: 0,
                    });
                }
            }
        }
        Ok(())
    }

    /// Copies a stretch of the filled view into `small`, but for its lost frames. By system calls,
    /// because they give an error where the memory just got is bad as well; a load would kill.
    fn copy_healthy(
        &self,
        small: &Extent,
        stretch: (u64, u64),
        lost: &[(u64, u64)],
    ) -> io::Result<()> {
        let (file, base) = (small.fd(), small.source().offset);
        for (at, len) in gaps(stretch, lost) {
            let mut done = 0;
            while done < len {
                // SAFETY: the bytes lie in the view, which stays mapped; the kernel only reads.
                let wrote = unsafe {
                    libc::pwrite(
                        file.as_raw_fd(),
                        self.fill().at(at + done).cast(),
                        (len - done) as usize,
                        (base + (at + done - stretch.0)) as libc::off_t,
                    )
                };
                match wrote {
                    1.. => done += wrote as u64,
                    _ => return Err(io::Error::last_os_error()),
                }
            }
        }
        Ok(())
    }

    /// Protects the marks from what the page's neighbours or a VMM may do, and gives the healthy
    /// frames around them back to a child of a fork.
    pub(super) fn protect_marks(&self, range: HvaRange) -> io::Result<()> {
        let inside = |run: (u64, u64)| range.slice(run.0, run.1).expect("it lies in the page");
        for run in &self.lost {
            set_apart(inside(*run))?;
        }
        if self.settings.dont_fork {
            return Ok(());
        }
        for part in self.parts.iter().map(|part| (part.at, part.len)) {
            if !self.lost.iter().any(|run| overlap(*run, part)) {
                continue;
            }
            for gap in gaps(part, &self.lost) {
                let healthy = inside(gap);
                // SAFETY: the advice changes no byte.
                unsafe { advise(healthy.start(), healthy.len(), libc::MADV_DOFORK) }?;
            }
        }
        Ok(())
    }
}

pub(super) fn overlap(a: (u64, u64), b: (u64, u64)) -> bool {
    a.0 < b.0 + b.1 && b.0 < a.0 + a.1
}

/// What of `whole` is in none of `runs`, which are ordered and apart.
pub(super) fn gaps(whole: (u64, u64), runs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let end = whole.0 + whole.1;
    let mut at = whole.0;
    let mut gaps = vec![];
    for run in runs.iter().filter(|run| overlap(**run, whole)) {
        if at < run.0 {
            gaps.push((at, run.0 - at));
        }
        at = (run.0 + run.1).min(end);
    }
    if at < end {
        gaps.push((at, end - at));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_and_runs_tile_the_whole() {
        assert_eq!(gaps((10, 10), &[]), [(10, 10)]);
        assert_eq!(
            gaps((10, 10), &[(0, 5), (12, 3), (19, 4)]),
            [(10, 2), (15, 4)]
        );
        assert_eq!(gaps((10, 10), &[(8, 4), (30, 1)]), [(12, 8)]);
        assert!(gaps((10, 10), &[(0, 40)]).is_empty());
    }
}
