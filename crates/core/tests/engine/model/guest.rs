//! The guest's side of the model: which physical frame each address shows, and what the guest
//! knows that it wrote there.

use pagemend_core::address::{FRAME_SIZE, Gpa, GpaRange, Hva};
use pagemend_core::map::Region;
use pagemend_core::policy::{Consumer, Policy};

use super::physical::{Physical, Place, index};

/// What a read of a frame may give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Truth {
    /// The last written word, or a fault.
    Word(u64),
    /// It was told lost, and its memory was not replaced: only a fault.
    Gone,
}

/// What a healed frame holds.
pub(crate) const FILLED: u64 = u64::MAX;

/// One frame of guest memory.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    /// What the page tables say.
    pub(crate) place: Place,
    pub(crate) truth: Truth,
    /// Whether its loss was told.
    pub(crate) told: bool,
}

/// A region, frame by frame.
struct Memory {
    gpa: GpaRange,
    hva: Hva,
    policy: Policy,
    consumers: Vec<Consumer>,
    cells: Vec<Cell>,
}

/// The guest's memory.
#[derive(Default)]
pub(crate) struct Guest {
    regions: Vec<Memory>,
    last_word: u64,
}

impl Guest {
    /// Maps `object` as a region and writes a word into each frame.
    pub(crate) fn add(&mut self, region: &Region, object: u32, physical: &mut Physical) {
        let cells = (0..physical.frames(object)).map(|frame| {
            self.last_word += 1;
            let place = Place { object, frame };
            physical.frame_mut(place).word = self.last_word;
            Cell {
                place,
                truth: Truth::Word(self.last_word),
                told: false,
            }
        });
        let cells = cells.collect();
        self.regions.push(Memory {
            gpa: region.gpa,
            hva: region.hva,
            policy: region.policy,
            consumers: region.consumers.clone(),
            cells,
        });
    }

    fn find(&self, gpa: Gpa) -> (usize, usize) {
        let offset = |(number, memory): (usize, &Memory)| {
            let offset = memory.gpa.offset_of(gpa)?;
            Some((number, index(offset / FRAME_SIZE)))
        };
        let found = self.regions.iter().enumerate().find_map(offset);
        found.expect("the engine is concerned with guest memory only")
    }

    pub(crate) fn cell(&self, gpa: Gpa) -> &Cell {
        let (region, frame) = self.find(gpa);
        &self.regions[region].cells[frame]
    }

    pub(crate) fn cell_mut(&mut self, gpa: Gpa) -> &mut Cell {
        let (region, frame) = self.find(gpa);
        &mut self.regions[region].cells[frame]
    }

    pub(crate) fn cells(&self, page: GpaRange) -> &[Cell] {
        let (region, frame) = self.find(page.start());
        &self.regions[region].cells[frame..][..index(page.len() / FRAME_SIZE)]
    }

    pub(crate) fn places(&self, page: GpaRange) -> Vec<Place> {
        self.cells(page).iter().map(|cell| cell.place).collect()
    }

    pub(crate) fn shows(&self, page: GpaRange, places: &[Place]) -> bool {
        let cells = self.cells(page);
        (0..cells.len()).all(|frame| cells[frame].place == places[frame])
    }

    /// The first frame that shows what the guest did not write, with what it shows; frames of
    /// `unread` are not looked at.
    pub(crate) fn first_wrong(
        &self,
        physical: &Physical,
        unread: Option<GpaRange>,
    ) -> Option<(Gpa, u64)> {
        let wrong = |cell: &Cell| {
            let frame = physical.frame(cell.place);
            !frame.faults() && cell.truth != Truth::Word(frame.word)
        };
        let unread = |gpa| unread.is_some_and(|range| range.contains(gpa));
        self.regions.iter().find_map(|memory| {
            let mut cells = memory.gpa.frames().zip(&memory.cells);
            let (gpa, cell) = cells.find(|(gpa, cell)| wrong(cell) && !unread(*gpa))?;
            Some((gpa, physical.frame(cell.place).word))
        })
    }

    /// Every frame with its address.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Gpa, &Cell)> {
        let addressed = |memory: &Memory| memory.gpa.frames();
        self.regions
            .iter()
            .flat_map(move |memory| addressed(memory).zip(&memory.cells))
    }

    pub(crate) fn frames(&self) -> u64 {
        self.regions.iter().map(|m| m.cells.len() as u64).sum()
    }

    /// Frame number `n` of all.
    pub(crate) fn nth(&self, n: u64) -> Gpa {
        self.all().nth(index(n)).expect("n is below frames()").0
    }

    pub(crate) fn hva(&self, gpa: Gpa) -> Hva {
        let memory = &self.regions[self.find(gpa).0];
        let offset = gpa.get() - memory.gpa.start().get();
        memory.hva.checked_add(offset).expect("regions do not wrap")
    }

    pub(crate) fn policy(&self, gpa: Gpa) -> Policy {
        self.regions[self.find(gpa).0].policy
    }

    pub(crate) fn consumers(&self, gpa: Gpa) -> &[Consumer] {
        &self.regions[self.find(gpa).0].consumers
    }

    /// Lets someone map all regions whom the engine does not know.
    pub(crate) fn attach(&mut self, consumer: Consumer) {
        for memory in &mut self.regions {
            memory.consumers.push(consumer.clone());
        }
    }

    /// Puts `object` in the place of `page`, which it covers: what `MAP_FIXED` does.
    pub(crate) fn show(&mut self, page: GpaRange, object: u32) {
        let (region, first) = self.find(page.start());
        let cells = &mut self.regions[region].cells[first..][..index(page.len() / FRAME_SIZE)];
        for (cell, frame) in cells.iter_mut().zip(0..) {
            cell.place = Place { object, frame };
        }
    }

    /// A word that was in no frame before.
    pub(crate) fn fresh_word(&mut self) -> u64 {
        self.last_word += 1;
        self.last_word
    }

    /// What a load through the page tables gives; none where it faults.
    pub(crate) fn load(&self, physical: &Physical, gpa: Gpa) -> Option<u64> {
        let frame = physical.frame(self.cell(gpa).place);
        (!frame.faults()).then_some(frame.word)
    }

    /// Stores a fresh word through the page tables, or faults.
    pub(crate) fn store(&mut self, physical: &mut Physical, gpa: Gpa) -> Option<()> {
        let place = self.cell(gpa).place;
        if physical.frame(place).faults() {
            return None;
        }
        self.store_at(physical, gpa, place);
        Some(())
    }

    /// Stores a fresh word past the page tables, as a device does that was given the address
    /// `gpa` when `place` was there.
    pub(crate) fn store_at(&mut self, physical: &mut Physical, gpa: Gpa, place: Place) {
        let word = self.fresh_word();
        physical.frame_mut(place).word = word;
        let cell = self.cell_mut(gpa);
        if cell.truth != Truth::Gone {
            cell.truth = Truth::Word(word);
        }
    }

    /// The frame is fresh memory, of which everybody knows.
    pub(crate) fn renew(&mut self, gpa: Gpa) {
        let cell = self.cell_mut(gpa);
        (cell.told, cell.truth) = (false, Truth::Word(0));
    }

    /// Everybody heard that the frame is lost and can be touched, or that it faults again.
    pub(crate) fn entrust(&mut self, gpa: Gpa, entrusted: bool) {
        self.cell_mut(gpa).truth = match entrusted {
            true => Truth::Word(FILLED),
            false => Truth::Gone,
        };
    }

    /// Everybody heard that the frame is lost. A discarded one may come back as zeroes.
    pub(crate) fn tell(&mut self, gpa: Gpa) {
        let discarded = self.policy(gpa) == Policy::Discard;
        let cell = self.cell_mut(gpa);
        cell.told = true;
        cell.truth = if discarded {
            Truth::Word(0)
        } else {
            Truth::Gone
        };
    }
}
