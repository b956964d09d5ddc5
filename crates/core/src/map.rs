//! The memory map: guest memory as configured (regions) and as it is now (segments).
//!
//! A fault comes with a host virtual address; the guest has to be told a guest physical one; and
//! what can be done depends on the page size and the backing of the piece in between. The map
//! answers all three, and a mend ends by replacing one segment with the ones that took its place.

mod segment;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::address::{Gpa, GpaRange, Hva, HvaRange, PageSize};
use crate::policy::{Consumer, Filling, Heal, Policy};

pub use segment::{Backing, FileId, Segment, Source};

/// A range of guest memory as the VMM configured it.
#[derive(Clone, Debug, Serialize)]
pub struct Region {
    /// What operators call it.
    pub name: String,
    /// Where the guest sees it.
    pub gpa: GpaRange,
    /// Where this process sees it.
    pub hva: Hva,
    /// The page size it was configured with.
    pub page_size: PageSize,
    /// What it is made of.
    pub backing: Backing,
    /// The file behind it, where there is one.
    pub source: Option<Source>,
    /// What is wanted for its poisoned pages.
    pub policy: Policy,
    /// When the bytes of a mended page come back.
    pub filling: Filling,
    /// When its huge pages are whole again.
    pub heal: Heal,
    /// Who else maps it.
    pub consumers: Vec<Consumer>,
}

impl Region {
    /// Whether `segment` is memory that the region was configured with, and not what a swap has put
    /// in its place.
    pub fn was_configured_with(&self, segment: &Segment) -> bool {
        let offset = self.gpa.offset_of(segment.gpa.start());
        let source = self.source.zip(offset).map(|(source, offset)| Source {
            offset: source.offset + offset,
            ..source
        });
        segment.backing == self.backing && segment.source == source
    }

    /// Where this process sees the region.
    pub fn hva_range(&self) -> HvaRange {
        HvaRange::new(self.hva, self.gpa.len()).expect("the map checked it when the region came")
    }
}

/// Where an address lies.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    /// The region as configured.
    pub region: &'a Region,
    /// The segment as it is now.
    pub segment: &'a Segment,
    /// The address as the guest knows it.
    pub gpa: Gpa,
    /// The address as this process knows it.
    pub hva: Hva,
}

/// Why a region or a replacement was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The region has no bytes.
    #[error("region '{name}' is empty")]
    Empty {
        /// The region.
        name: String,
    },
    /// An address or the size is no multiple of the page size.
    #[error("region '{name}': {what} {value:#x} is not a multiple of its page size, {page_size}")]
    Unaligned {
        /// The region.
        name: String,
        /// What is unaligned: its guest address, host address, size or file offset.
        what: &'static str,
        /// The value, in bytes.
        value: u64,
        /// The region's page size.
        page_size: PageSize,
    },
    /// The region passes the end of the host's address space.
    #[error("region '{name}' at host address {hva} passes the end of the address space")]
    Wraps {
        /// The region.
        name: String,
        /// Its host address.
        hva: Hva,
    },
    /// Two regions share addresses.
    #[error("regions '{name}' and '{other}' overlap in {space} addresses")]
    Overlap {
        /// The region that came last.
        name: String,
        /// The one that was there.
        other: String,
        /// `guest` or `host`.
        space: &'static str,
    },
    /// New segments do not cover exactly the range that they are to replace.
    #[error("the new segments do not cover exactly {range}")]
    WrongCover {
        /// The range to replace.
        range: GpaRange,
    },
}

/// All regions and their segments.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    /// By guest address.
    regions: BTreeMap<Gpa, Region>,
    /// Guest address of the region that starts at a host address.
    by_hva: BTreeMap<Hva, Gpa>,
    /// By guest address.
    segments: BTreeMap<Gpa, Segment>,
}

impl MemoryMap {
    /// A map of no memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a region, which becomes one segment.
    pub fn add(&mut self, region: Region) -> Result<(), MapError> {
        self.check(&region)?;
        let segment = Segment {
            gpa: region.gpa,
            page_size: region.page_size,
            backing: region.backing,
            source: region.source,
        };
        self.segments.insert(region.gpa.start(), segment);
        self.by_hva.insert(region.hva, region.gpa.start());
        self.regions.insert(region.gpa.start(), region);
        Ok(())
    }

    fn check(&self, region: &Region) -> Result<(), MapError> {
        let name = || region.name.clone();
        if region.gpa.is_empty() {
            return Err(MapError::Empty { name: name() });
        }
        let offset = region.source.map_or(0, |source| source.offset);
        for (what, value) in [
            ("guest address", region.gpa.start().get()),
            ("host address", region.hva.get()),
            ("size", region.gpa.len()),
            ("file offset", offset),
        ] {
            if !value.is_multiple_of(region.page_size.bytes()) {
                return Err(MapError::Unaligned {
                    name: name(),
                    what,
                    value,
                    page_size: region.page_size,
                });
            }
        }
        let Some(hva) = HvaRange::new(region.hva, region.gpa.len()) else {
            return Err(MapError::Wraps {
                name: name(),
                hva: region.hva,
            });
        };
        for other in self.regions.values() {
            let space = if other.gpa.overlaps(&region.gpa) {
                "guest"
            } else if other.hva_range().overlaps(&hva) {
                "host"
            } else {
                continue;
            };
            return Err(MapError::Overlap {
                name: name(),
                other: other.name.clone(),
                space,
            });
        }
        Ok(())
    }

    /// The regions, by guest address.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }

    /// The segments, by guest address.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.values()
    }

    /// Where a host address lies, or `None` outside guest memory.
    pub fn locate_hva(&self, hva: Hva) -> Option<Location<'_>> {
        let (_, start) = self.by_hva.range(..=hva).next_back()?;
        let region = &self.regions[start];
        let gpa = region.gpa.at(region.hva_range().offset_of(hva)?)?;
        self.locate(region, gpa)
    }

    /// Where a guest address lies, or `None` outside guest memory.
    pub fn locate_gpa(&self, gpa: Gpa) -> Option<Location<'_>> {
        let (_, region) = self.regions.range(..=gpa).next_back()?;
        self.locate(region, gpa)
    }

    fn locate<'a>(&'a self, region: &'a Region, gpa: Gpa) -> Option<Location<'a>> {
        let offset = region.gpa.offset_of(gpa)?;
        let (_, segment) = self.segments.range(..=gpa).next_back()?;
        Some(Location {
            region,
            segment,
            gpa,
            hva: region.hva_range().at(offset)?,
        })
    }

    /// What `range` consists of, in order: the segments that share addresses with it, cut to it.
    pub fn segments_in(&self, range: &GpaRange) -> Vec<Segment> {
        let mut parts: Vec<Segment> = self
            .segments
            .range(..range.end())
            .rev()
            .map_while(|(_, segment)| segment.part(range))
            .collect();
        parts.reverse();
        parts
    }

    /// Puts `pieces` in the place of what is in `range` now, and joins what goes on in its
    /// neighbour. `range` must lie in one region and `pieces`, in order, must cover exactly it.
    pub fn replace(&mut self, range: GpaRange, pieces: &[Segment]) -> Result<(), MapError> {
        let adjoining = pieces
            .windows(2)
            .all(|pair| pair[0].gpa.end() == pair[1].gpa.start());
        let covers = match (pieces.first(), pieces.last()) {
            (Some(first), Some(last)) => {
                first.gpa.start() == range.start() && last.gpa.end() == range.end()
            }
            _ => false,
        };
        let inside = self
            .locate_gpa(range.start())
            .is_some_and(|location| location.region.gpa.covers(&range));
        if !(adjoining && covers && inside) {
            return Err(MapError::WrongCover { range });
        }

        let old: Vec<Segment> = self
            .segments
            .range(..range.end())
            .rev()
            .map(|(_, segment)| *segment)
            .take_while(|segment| segment.gpa.overlaps(&range))
            .collect();
        for segment in &old {
            self.segments.remove(&segment.gpa.start());
        }
        let outside = old.iter().flat_map(|segment| {
            let below = GpaRange::new(
                segment.gpa.start(),
                range
                    .start()
                    .get()
                    .saturating_sub(segment.gpa.start().get()),
            );
            let above = GpaRange::new(
                range.end(),
                segment.gpa.end().get().saturating_sub(range.end().get()),
            );
            [below, above]
                .into_iter()
                .flatten()
                .filter_map(|rest| segment.part(&rest))
        });
        let outside: Vec<Segment> = outside.collect();
        for segment in outside.into_iter().chain(pieces.iter().copied()) {
            self.segments.insert(segment.gpa.start(), segment);
        }
        self.join(range);
        Ok(())
    }

    /// Joins segments in and around `range` that go on in their neighbour.
    fn join(&mut self, range: GpaRange) {
        let region_start = |map: &Self, gpa: Gpa| map.locate_gpa(gpa).map(|l| l.region.gpa.start());
        let from = self
            .segments
            .range(..range.start())
            .next_back()
            .map_or(range.start(), |(start, _)| *start);
        let starts: Vec<Gpa> = self
            .segments
            .range(from..=range.end())
            .map(|(start, _)| *start)
            .collect();
        let mut current = starts.first().copied();
        for next in starts.into_iter().skip(1) {
            let Some(start) = current else { return };
            let (left, right) = (self.segments[&start], self.segments[&next]);
            if left.goes_on_in(&right) && region_start(self, start) == region_start(self, next) {
                self.segments.remove(&next);
                let joined = Segment {
                    gpa: GpaRange::new(start, left.gpa.len() + right.gpa.len())
                        .expect("both lie in one region"),
                    ..left
                };
                self.segments.insert(start, joined);
            } else {
                current = Some(next);
            }
        }
    }
}

#[cfg(test)]
mod tests;
