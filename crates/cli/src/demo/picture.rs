//! The memory map as a row of cells, each standing for the same number of bytes.

use pagemend::{Backing, FRAME_SIZE, Gpa, GpaRange, PageSize};

use super::report::Report;

/// What a cell shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cell {
    /// The smallest pages in it.
    pub(super) page_size: PageSize,
    /// Whether a frame of it is lost.
    pub(super) lost: bool,
}

/// Guest memory in cells.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) start: Gpa,
    pub(super) cell_bytes: u64,
    pub(super) cells: Vec<Cell>,
}

impl Picture {
    /// At most `most` cells of a round number of bytes.
    pub(super) fn of(report: &Report, most: u64) -> Self {
        let cell_bytes = report
            .memory_bytes
            .div_ceil(most)
            .next_power_of_two()
            .max(FRAME_SIZE);
        let start = report
            .segments
            .first()
            .map_or(Gpa::new(0), |piece| piece.gpa.start());
        let untouched = Cell {
            page_size: PageSize::SIZE_1G,
            lost: false,
        };
        let count = report.memory_bytes.div_ceil(cell_bytes) as usize;
        let mut cells = vec![untouched; count];
        let in_cells = |range: &GpaRange| {
            let first = (range.start().get() - start.get()) / cell_bytes;
            let last = (range.end().get() - start.get() - 1) / cell_bytes;
            first as usize..=last as usize
        };
        for piece in &report.segments {
            for cell in &mut cells[in_cells(&piece.gpa)] {
                cell.page_size = cell.page_size.min(piece.page_size);
            }
        }
        for lost in &report.lost {
            for cell in &mut cells[in_cells(lost)] {
                cell.lost = true;
            }
        }
        Self {
            start,
            cell_bytes,
            cells,
        }
    }
}

/// Bytes by what they are made of, largest pages first.
pub(super) fn by_backing(report: &Report) -> Vec<(PageSize, String, u64)> {
    let mut kinds: Vec<(PageSize, String, u64)> = vec![];
    for piece in &report.segments {
        let name = match piece.backing {
            Backing::Hugetlb | Backing::HugetlbPrivate => format!("hugetlb {}", piece.page_size),
            // What they are made of is the kernel's choice; an error takes 4 KiB in any case.
            _ if report.pages == "thp" => "transparent huge pages".to_owned(),
            _ => format!("shared memory, {}", piece.page_size),
        };
        match kinds.iter_mut().find(|(_, known, _)| *known == name) {
            Some((_, _, bytes)) => *bytes += piece.gpa.len(),
            None => kinds.push((piece.page_size, name, piece.gpa.len())),
        }
    }
    kinds.sort_by_key(|(size, ..)| std::cmp::Reverse(*size));
    kinds
}
