//! 64-bit mode with flat segments and all memory mapped to itself, for user mode too: what both the
//! Linux boot protocol and a flat payload start with.

use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use pagemend::{Gpa, GuardError};

use super::Entry;
use crate::layout;
use crate::memory::Ram;

const PAGE: u64 = 4096;
const GIB: u64 = 1 << 30;
const MIB_2: u64 = 2 << 20;

/// Page-table entry bits (AMD64 manual, volume 2, section 5.4).
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;

/// CR0: protected mode, monitor coprocessor, native x87 errors, write protection, paging.
const CR0: u64 = 1 | 1 << 1 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4: physical address extension, SSE for a flat payload compiled by an ordinary compiler.
const CR4: u64 = 1 << 5 | 1 << 9 | 1 << 10;
/// EFER: long mode enabled and active.
const EFER: u64 = 1 << 8 | 1 << 10;

/// Selectors of the Linux boot protocol: `__BOOT_CS` and `__BOOT_DS`.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
/// Selectors of user mode's segments, for a flat payload that has something to run there.
pub(crate) const USER_DATA: u16 = 0x20 | USER_LEVEL;
pub(crate) const USER_CODE: u16 = 0x28 | USER_LEVEL;
/// The least privileged level, where it stands in a selector.
const USER_LEVEL: u16 = 3;

/// Writes descriptors, and page tables for the first `mapped` bytes, at least 4 GiB.
pub(super) fn write_tables(ram: &Ram, mapped: u64) -> Result<(), GuardError> {
    let segments =
        [CODE, DATA, USER_DATA, USER_CODE].map(|selector| descriptor(&segment(selector)));
    let descriptors = [&[0, 0][..], &segments].concat();
    ram.write(layout::GDT, &bytes_of(&descriptors))?;

    let directories = mapped.max(4 * GIB).div_ceil(GIB);
    let top = layout::PAGE_TABLES.get();
    let pointers = top + PAGE;
    let directory = |index: u64| pointers + PAGE + index * PAGE;
    ram.write(
        layout::PAGE_TABLES,
        &bytes_of(&[pointers | PRESENT | WRITABLE | USER]),
    )?;
    let entries: Vec<u64> = (0..directories)
        .map(|index| directory(index) | PRESENT | WRITABLE | USER)
        .collect();
    ram.write(Gpa::new(pointers), &bytes_of(&entries))?;
    for index in 0..directories {
        let pages: Vec<u64> = (0..GIB / MIB_2)
            .map(|page| (index * GIB + page * MIB_2) | PRESENT | WRITABLE | USER | LARGE)
            .collect();
        ram.write(Gpa::new(directory(index)), &bytes_of(&pages))?;
    }
    Ok(())
}

/// Sets `vcpu` on the first instruction of `entry`, with `index` in RDI.
pub(crate) fn enter(vcpu: &VcpuFd, entry: &Entry, index: u8) -> Result<(), kvm_ioctls::Error> {
    let mut system = vcpu.get_sregs()?;
    system.gdt.base = layout::GDT.get();
    system.gdt.limit = 6 * 8 - 1;
    system.idt.base = 0;
    system.idt.limit = 0;
    system.cs = segment(CODE);
    for data in [
        &mut system.ds,
        &mut system.es,
        &mut system.fs,
        &mut system.gs,
        &mut system.ss,
    ] {
        *data = segment(DATA);
    }
    system.cr3 = layout::PAGE_TABLES.get();
    system.cr0 = CR0;
    system.cr4 = CR4;
    system.efer = EFER;
    vcpu.set_sregs(&system)?;
    vcpu.set_regs(&kvm_regs {
        // Reserved and always set (AMD64 manual, volume 2, section 3.1.6).
        rflags: 1 << 1,
        rip: entry.rip.get(),
        rsi: entry.rsi,
        rdi: index.into(),
        ..Default::default()
    })
}

/// A flat segment: 64-bit code or data.
fn segment(selector: u16) -> kvm_segment {
    let code = matches!(selector, CODE | USER_CODE);
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        // Execute and read, or read and write; accessed.
        type_: if code { 0xb } else { 0x3 },
        present: 1,
        dpl: (selector & USER_LEVEL) as u8,
        db: (!code).into(),
        s: 1,
        l: code.into(),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The descriptor that a segment's hidden part would have been loaded from (AMD64 manual, volume
/// 2, section 4.7).
fn descriptor(segment: &kvm_segment) -> u64 {
    // With a granularity of pages the limit is counted in them.
    let limit = u64::from(segment.limit) >> (12 * segment.g);
    let flags = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15;
    (limit & 0xffff) | flags << 40 | (limit & 0xf_0000) << 32
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_the_ones_of_the_boot_protocol() {
        assert_eq!(descriptor(&segment(CODE)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(DATA)), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&segment(USER_CODE)), 0x00af_fb00_0000_ffff);
        assert_eq!(descriptor(&segment(USER_DATA)), 0x00cf_f300_0000_ffff);
    }
}
