//! A Linux kernel by the 64-bit boot protocol (Documentation/arch/x86/boot.rst).

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use linux_loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::cmdline::Cmdline;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use pagemend::{AddressRange, Gpa, GpaRange};
use vm_memory::{ByteValued, GuestAddress};

use super::{BootError, Entry, room_above};
use crate::layout;
use crate::memory::Ram;

/// `XLF_KERNEL_64` in `xloadflags`: there is a 64-bit entry point, 0x200 after the start.
const KERNEL_64: u16 = 1;
const ENTRY_64: u64 = 0x200;
/// `type_of_loader` of a boot loader without a number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
/// e820 types.
const USABLE: u32 = 1;
const RESERVED: u32 = 2;
/// Where an initial file system may end where the kernel does not say: `initrd_addr_max` of old
/// kernels.
const INITRD_MAX: u64 = 0x37ff_ffff;

/// Loads a kernel, its first file system, its command line and its parameters.
pub(super) fn load(
    kernel: &Path,
    initrd: Option<&Path>,
    cmdline: &str,
    acpi_root: Gpa,
    ram: &Ram,
) -> Result<Entry, BootError> {
    let loaded = load_kernel(kernel, ram)?;
    let (rip, mut params) = match loaded.setup_header {
        Some(header) if header.xloadflags & KERNEL_64 != 0 => {
            let start = Gpa::new(loaded.kernel_load.0 + ENTRY_64);
            (start, parameters(header))
        }
        Some(_) => {
            return Err(BootError::No64BitEntry {
                path: kernel.to_owned(),
            });
        }
        // An ELF kernel has no setup header: it gets one with what it must have.
        None => (
            Gpa::new(loaded.kernel_load.0),
            parameters(Default::default()),
        ),
    };
    params.acpi_rsdp_addr = acpi_root.get();
    describe_memory(&mut params, ram);

    let cmdline = Cmdline::try_from(cmdline, layout::CMDLINE_CAPACITY)
        .and_then(|line| line.as_cstring())
        .map_err(BootError::Cmdline)?;
    ram.write(layout::CMDLINE, cmdline.as_bytes_with_nul())?;
    params.hdr.cmd_line_ptr = layout::CMDLINE.get() as u32;

    if let Some(path) = initrd {
        let kernel_end = Gpa::new(loaded.kernel_end);
        let at = load_initrd(path, kernel_end, params.hdr.initrd_addr_max, ram)?;
        // `initrd_addr_max` keeps both below 4 GiB.
        params.hdr.ramdisk_image = at.start().get() as u32;
        params.hdr.ramdisk_size = at.len() as u32;
    }
    ram.write(layout::BOOT_PARAMS, params.as_slice())?;
    Ok(Entry {
        rip,
        rsi: layout::BOOT_PARAMS.get(),
        all: false,
    })
}

fn load_kernel(path: &Path, ram: &Ram) -> Result<KernelLoaderResult, BootError> {
    let mut file = open(path)?;
    let memory = ram.for_loader();
    let start = GuestAddress(layout::HIGH_MEMORY.get());
    // What is no bzImage may be an ELF file, and if it is neither, that loader says why.
    if let Ok(loaded) = BzImage::load(&memory, None, &mut file, Some(start)) {
        return Ok(loaded);
    }
    file.rewind().map_err(|source| BootError::File {
        path: path.to_owned(),
        source,
    })?;
    Elf::load(&memory, None, &mut file, Some(start)).map_err(|source| BootError::Kernel {
        path: path.to_owned(),
        source,
    })
}

fn parameters(mut header: linux_loader::bootparam::setup_header) -> boot_params {
    header.type_of_loader = UNDEFINED_LOADER;
    // For a boot loader to say, whatever the file has there.
    header.ramdisk_image = 0;
    header.ramdisk_size = 0;
    boot_params {
        hdr: header,
        ..Default::default()
    }
}

/// Puts the first file system as high as the kernel can reach it, so that the kernel has room to
/// unpack itself below.
fn load_initrd(path: &Path, after: Gpa, max: u32, ram: &Ram) -> Result<GpaRange, BootError> {
    let max = if max == 0 { INITRD_MAX } else { max.into() };
    let room = room_above(ram, after);
    let end = room.end().get().min(max + 1);
    let mut bytes = vec![];
    // No more than shows that it is too much: the file may have no end.
    let limit = end.saturating_sub(after.get()) + 1;
    let read = open(path)?.take(limit).read_to_end(&mut bytes);
    read.map_err(|source| BootError::File {
        path: path.to_owned(),
        source,
    })?;
    let len = bytes.len() as u64;
    let too_large = BootError::TooLarge {
        what: "the initial file system",
        len,
        room: end.saturating_sub(after.get()),
    };
    let start = end
        .checked_sub(len)
        .map(|start| Gpa::new(start & !0xfff))
        .filter(|start| *start >= after)
        .ok_or(too_large)?;
    ram.write(start, &bytes)?;
    Ok(AddressRange::new(start, len).expect("it lies in guest memory"))
}

fn open(path: &Path) -> Result<File, BootError> {
    File::open(path).map_err(|source| BootError::File {
        path: path.to_owned(),
        source,
    })
}

/// The memory map that a BIOS would give.
fn describe_memory(params: &mut boot_params, ram: &Ram) {
    let mut entries = vec![
        (0, layout::EBDA.get(), USABLE),
        (layout::EBDA.get(), 0xa_0000, RESERVED),
        (layout::ACPI.get(), layout::HIGH_MEMORY.get(), RESERVED),
    ];
    let firmware = ram.firmware();
    for range in ram.ranges() {
        let start = range.start().max(layout::HIGH_MEMORY);
        let end = if range.covers(&firmware) {
            firmware.start()
        } else {
            range.end()
        };
        entries.push((start.get(), end.get(), USABLE));
    }
    entries.push((firmware.start().get(), firmware.end().get(), RESERVED));
    entries.sort_unstable();
    for (slot, (start, end, type_)) in params.e820_table.iter_mut().zip(&entries) {
        *slot = boot_e820_entry {
            addr: *start,
            size: end - start,
            r#type: *type_,
        };
    }
    params.e820_entries = entries.len() as u8;
}
