//! What the kernel says about a mapping, in `/proc/self/smaps`.
//!
//! Whether a page can be mended depends on how it is mapped, and that is asked, never believed.
//! It is read once for each region, when the VMM registers it: the file costs a walk over all page
//! tables, too much for the middle of a recovery.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use pagemend_core::address::{Hva, HvaRange, PageSize};

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Vma {
    pub(crate) range: HvaRange,
    pub(crate) shared: bool,
    pub(crate) writable: bool,
    /// Bytes from the start of its file.
    pub(crate) offset: u64,
    /// Its file system, as fstat(2) has it; an inode's number means nothing without.
    pub(crate) device: u64,
    /// 0 where there is no file.
    pub(crate) inode: u64,
    pub(crate) page_size: PageSize,
    /// Two-letter names, `Documentation/filesystems/proc.rst`.
    pub(crate) flags: Vec<String>,
}

impl Vma {
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|name| name == flag)
    }
}

/// The mappings that share bytes with `range`, by address.
pub(crate) fn mappings_of(range: HvaRange) -> io::Result<Vec<Vma>> {
    parse(BufReader::new(File::open("/proc/self/smaps")?), range)
}

fn parse(smaps: impl BufRead, range: HvaRange) -> io::Result<Vec<Vma>> {
    let mut found: Vec<Vma> = vec![];
    let mut inside = false;
    for line in smaps.lines() {
        let line = line?;
        if let Some(vma) = header(&line) {
            inside = vma.range.overlaps(&range);
            if vma.range.start() >= range.end() {
                break;
            }
            if inside {
                found.push(vma);
            }
        } else if let (true, Some(vma)) = (inside, found.last_mut()) {
            if let Some(size) = line.strip_prefix("KernelPageSize:") {
                let kib: Option<u64> = size.trim().strip_suffix(" kB").and_then(|n| n.parse().ok());
                vma.page_size = kib
                    .and_then(|kib| PageSize::from_bytes(kib << 10))
                    .ok_or_else(|| unreadable(&line))?;
            } else if let Some(flags) = line.strip_prefix("VmFlags:") {
                vma.flags = flags.split_whitespace().map(str::to_owned).collect();
            }
        }
    }
    Ok(found)
}

/// `start-end perms offset dev inode path`, or `None` where the line is something else.
fn header(line: &str) -> Option<Vma> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let (start, end) = (
        u64::from_str_radix(start, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    );
    let permissions = fields.next()?.as_bytes();
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let (major, minor) = fields.next()?.split_once(':')?;
    let (major, minor) = (
        u32::from_str_radix(major, 16).ok()?,
        u32::from_str_radix(minor, 16).ok()?,
    );
    let inode = fields.next()?.parse().ok()?;
    Some(Vma {
        range: HvaRange::new(Hva::new(start), end.checked_sub(start)?)?,
        shared: permissions.get(3) == Some(&b's'),
        writable: permissions.get(1) == Some(&b'w'),
        offset,
        device: rustix::fs::makedev(major, minor),
        inode,
        page_size: PageSize::SIZE_4K,
        flags: vec![],
    })
}

fn unreadable(line: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("/proc/self/smaps has a line that cannot be read: '{line}'"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000400000 rw-s 00200000 00:11 1027                       /memfd:guest (deleted)
Size:               4096 kB
KernelPageSize:     2048 kB
MMUPageSize:        2048 kB
VmFlags: rd wr sh mr mw me ms de ht dd
7f0000400000-7f0000500000 rw-p 00000000 00:00 0
KernelPageSize:        4 kB
VmFlags: rd wr mr mw me ac hg
";

    fn range(start: u64, len: u64) -> HvaRange {
        HvaRange::new(Hva::new(start), len).unwrap()
    }

    #[test]
    fn a_mapping_is_read_with_its_page_size_and_flags() {
        let found = parse(SMAPS.as_bytes(), range(0x7f00_0020_0000, 4096)).unwrap();
        assert_eq!(found.len(), 1);
        let vma = &found[0];
        assert!(vma.shared && vma.writable && vma.has("dd") && vma.has("ht") && !vma.has("hg"));
        assert_eq!(
            (vma.offset, vma.inode, vma.page_size),
            (0x20_0000, 1027, PageSize::SIZE_2M)
        );
    }

    #[test]
    fn only_mappings_in_the_range_are_given() {
        assert_eq!(
            parse(SMAPS.as_bytes(), range(0x7f00_003f_f000, 8192))
                .unwrap()
                .len(),
            2
        );
        assert!(
            parse(SMAPS.as_bytes(), range(0x1000, 4096))
                .unwrap()
                .is_empty()
        );
        let private = parse(SMAPS.as_bytes(), range(0x7f00_0040_0000, 4096)).unwrap();
        assert!(!private[0].shared && private[0].inode == 0);
    }

    #[test]
    fn a_damaged_page_size_is_an_error() {
        let damaged = SMAPS.replace("2048 kB", "many kB");
        assert!(parse(damaged.as_bytes(), range(0x7f00_0000_0000, 4096)).is_err());
    }

    #[test]
    fn this_process_can_read_its_own() {
        let here = Hva::new(SMAPS.as_ptr() as u64);
        let found = mappings_of(HvaRange::page(here, PageSize::SIZE_4K)).unwrap();
        assert!(found.iter().any(|vma| vma.range.contains(here)));
    }
}
