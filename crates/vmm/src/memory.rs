//! Guest memory: made, looked after by pagemend, and given to KVM, where it stays.

use std::io;
use std::sync::Arc;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use pagemend::{
    Builder, Gpa, GpaRange, GuardError, GuardedRegion, GuestMemory, GuestRegion, MemoryError,
    Pagemend, RegionConfig,
};
use vm_memory::GuestRegionCollection;

use crate::config::MemoryConfig;
use crate::layout;

/// Why there is no guest memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RamError {
    /// The host has no such memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What backs it could not be described.
    #[error("guest memory cannot be described to the mender")]
    Region(#[source] io::Error),
    /// It is not what was wished for.
    #[error("the memory that was given is not of the sizes that the machine's layout wants")]
    Layout,
    /// KVM does not take it.
    #[error("KVM does not take guest memory")]
    Slot(#[source] kvm_ioctls::Error),
}

/// Guest memory that nobody looks after yet.
pub(crate) struct Blocks(Vec<(String, GpaRange, Arc<GuestMemory>)>);

impl Blocks {
    /// Gets the memory that is wished for.
    pub(crate) fn new(config: &MemoryConfig) -> Result<Self, RamError> {
        let blocks = layout::memory(config.bytes).into_iter();
        let blocks = blocks.map(|range| {
            let memory = GuestMemory::new(config.kind.clone(), range.len())?;
            Ok(Arc::new(memory))
        });
        let blocks = blocks.collect::<Result<Vec<_>, RamError>>()?;
        Self::of(config, blocks)
    }

    /// Takes memory that somebody else has made: as much below the hole and above it as is wished
    /// for.
    pub(crate) fn of(
        config: &MemoryConfig,
        memory: Vec<Arc<GuestMemory>>,
    ) -> Result<Self, RamError> {
        let ranges = layout::memory(config.bytes);
        let lens = memory.iter().map(|memory| memory.len());
        if !lens.eq(ranges.iter().map(GpaRange::len)) {
            return Err(RamError::Layout);
        }
        let blocks = ranges.into_iter().zip(memory).zip(["ram", "high"]);
        let blocks = blocks.map(|((range, memory), name)| (name.to_owned(), range, memory));
        Ok(Self(blocks.collect()))
    }

    /// Has all of it looked after.
    pub(crate) fn describe(
        &self,
        config: &MemoryConfig,
        mut builder: Builder,
    ) -> Result<Builder, RamError> {
        for (name, range, memory) in &self.0 {
            let region = RegionConfig::of(name, range.start(), Arc::clone(memory))
                .map_err(RamError::Region)?;
            let region = region.policy(config.policy).filling(config.filling);
            builder = builder.region(region.heal(config.heal));
        }
        Ok(builder)
    }

    /// What is looked after by `pagemend` now.
    pub(crate) fn guarded(&self, pagemend: &Pagemend) -> Ram {
        let names = self.0.iter().map(|(name, ..)| name);
        Ram(names.filter_map(|name| pagemend.memory(name)).collect())
    }
}

/// Guest memory that can be reached without dying of it.
#[derive(Clone)]
pub struct Ram(Vec<GuestRegion>);

impl Ram {
    /// Where it is, in order.
    pub fn ranges(&self) -> impl Iterator<Item = GpaRange> + '_ {
        self.0.iter().map(GuestRegion::range)
    }

    /// The end of low memory, which is firmware's where the payload is a kernel.
    pub(crate) fn firmware(&self) -> GpaRange {
        layout::firmware(self.low().range())
    }

    /// The memory below the hole.
    pub(crate) fn low(&self) -> &GuestRegion {
        &self.0[0]
    }

    /// Gives it to KVM, one slot for each range.
    pub(crate) fn plug_in(&self, vm: &VmFd) -> Result<(), RamError> {
        for (slot, region) in (0..).zip(&self.0) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.range().start().get(),
                memory_size: region.range().len(),
                userspace_addr: region.mapped_at().start().get(),
            };
            // SAFETY: the range is guest memory and nothing else. It stays mapped for as long as a
            // clone of the region is there: `Vm` keeps one until its vCPUs have ended.
            unsafe { vm.set_user_memory_region(slot) }.map_err(RamError::Slot)?;
        }
        Ok(())
    }

    fn region(&self, gpa: Gpa) -> &GuestRegion {
        let region = self.0.iter().find(|region| region.range().contains(gpa));
        // An address outside is refused by whichever region is asked.
        region.unwrap_or(&self.0[0])
    }

    /// Writes into one range of guest memory.
    ///
    /// # Errors
    ///
    /// As [`GuestRegion::write`].
    pub fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result<(), GuardError> {
        self.region(gpa).write(gpa, bytes)
    }

    /// Reads from one range of guest memory.
    ///
    /// # Errors
    ///
    /// As [`GuestRegion::read`].
    pub fn read(&self, gpa: Gpa, bytes: &mut [u8]) -> Result<(), GuardError> {
        self.region(gpa).read(gpa, bytes)
    }

    /// The same memory as rust-vmm's crates want it.
    pub(crate) fn for_loader(&self) -> GuestRegionCollection<GuardedRegion> {
        let regions = self.0.iter().cloned().filter_map(GuardedRegion::new);
        GuestRegionCollection::from_regions(regions.collect())
            .expect("the ranges of the layout are in order and apart")
    }
}
