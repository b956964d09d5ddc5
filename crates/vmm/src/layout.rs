//! Where things are in the guest's physical address space: the usual map of a PC.

use pagemend::{AddressRange, Gpa, GpaRange};

/// The Linux boot protocol's parameters, a page.
pub(crate) const BOOT_PARAMS: Gpa = Gpa::new(0x7000);
/// Descriptors of the flat segments that a vCPU starts with.
pub(crate) const GDT: Gpa = Gpa::new(0x8000);
/// The kernel's command line.
pub(crate) const CMDLINE: Gpa = Gpa::new(0x2_0000);
/// Bytes that the command line may have, its end included.
pub(crate) const CMDLINE_CAPACITY: usize = 0x1_0000;
/// The page tables that a vCPU starts with: one page for each GiB, and two above them.
pub(crate) const PAGE_TABLES: Gpa = Gpa::new(0x4_0000);
/// The end of what low memory is good for.
pub(crate) const EBDA: Gpa = Gpa::new(0x9_fc00);
/// The ACPI tables, from the root pointer on, where a PC's BIOS has it.
pub(crate) const ACPI: Gpa = Gpa::new(0xe_0000);
/// Where a PC's processor begins after a reset, in its BIOS: F000:FFF0.
pub(crate) const RESET_VECTOR: Gpa = Gpa::new(0xf_fff0);
/// Bytes at the end of low memory that are firmware's, as on a PC: the registers and the block of a
/// source of error records, and the errors of the boot before. Not with the tables, because Linux
/// reserves all below 1 MiB for itself and then refuses to look for boot errors there.
pub(crate) const FIRMWARE_LEN: u64 = 64 << 10;
/// Where a kernel is loaded, and high memory begins.
pub(crate) const HIGH_MEMORY: Gpa = Gpa::new(0x10_0000);
/// Memory ends here and goes on at [`ABOVE_HOLE`]: interrupt controllers and KVM's own pages lie
/// between.
pub(crate) const HOLE: Gpa = Gpa::new(3 << 30);
/// Where memory goes on above the hole.
pub(crate) const ABOVE_HOLE: Gpa = Gpa::new(4 << 30);
/// The I/O interrupt controller (KVM's).
pub(crate) const IO_APIC: u32 = 0xfec0_0000;
/// The local interrupt controllers (KVM's).
pub(crate) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Three pages that KVM wants on Intel processors for real mode.
pub(crate) const KVM_TSS: usize = 0xfffb_d000;
/// A page that KVM wants on Intel processors for real mode.
pub(crate) const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// The largest guest whose memory the first page tables can map, in bytes: they end at the EBDA.
pub(crate) const MAX_MEMORY: u64 = 60 << 30;

/// Where `bytes` of guest memory lie: below the hole, and what is more above it.
pub(crate) fn memory(bytes: u64) -> Vec<GpaRange> {
    let below = bytes.min(HOLE.get());
    [(Gpa::new(0), below), (ABOVE_HOLE, bytes - below)]
        .into_iter()
        .filter(|(_, len)| *len > 0)
        .filter_map(|(start, len)| AddressRange::new(start, len))
        .collect()
}

/// What is firmware's of guest memory that starts with `low`.
pub(crate) fn firmware(low: GpaRange) -> GpaRange {
    low.slice(low.len() - FIRMWARE_LEN, FIRMWARE_LEN)
        .expect("a machine has more memory than its firmware")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_does_not_fit_below_the_hole_goes_on_above_it() {
        let range = |start, len| AddressRange::new(Gpa::new(start), len).unwrap();
        assert_eq!(memory(1 << 30), [range(0, 1 << 30)]);
        assert_eq!(memory(3 << 30), [range(0, 3 << 30)]);
        assert_eq!(
            memory(5 << 30),
            [range(0, 3 << 30), range(4 << 30, 2 << 30)]
        );
    }

    #[test]
    fn the_first_page_tables_fit_below_the_ebda() {
        let pages = 2 + (MAX_MEMORY >> 30) + 1;
        assert!(PAGE_TABLES.get() + pages * 4096 <= EBDA.get());
    }
}
