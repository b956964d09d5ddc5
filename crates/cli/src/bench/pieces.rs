//! What memory consists of after it was dealt with.

use std::collections::BTreeMap;

use pagemend::{PageSize, Segment};
use serde::Serialize;

use crate::size::Size;

/// So much of it is in pages of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Piece {
    pub(super) page_size: PageSize,
    pub(super) bytes: u64,
}

impl Piece {
    /// The segments by page size, the largest first.
    pub(super) fn of(segments: impl IntoIterator<Item = Segment>) -> Vec<Self> {
        let mut bytes = BTreeMap::new();
        for segment in segments {
            *bytes.entry(segment.page_size).or_insert(0) += segment.gpa.len();
        }
        let sizes = bytes.into_iter().rev();
        sizes
            .map(|(page_size, bytes)| Self { page_size, bytes })
            .collect()
    }
}

/// All of them in words.
pub(super) fn listed(pieces: &[Piece]) -> String {
    let each = pieces
        .iter()
        .map(|piece| format!("{} in pages of {}", Size(piece.bytes), piece.page_size));
    each.collect::<Vec<_>>().join(", ")
}
