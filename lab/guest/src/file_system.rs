//! A file on a real file system, whose pages are a cache of what is on a disk: an empty ext2 on a [`Disk`], mounted where nobody else sees it. Formatted here because the machine has no other program; the layout is that of the kernel's `fs/ext2/ext2.h`, revision 0.

use crate::disk::Disk;
use crate::memory::KIB_4;
use crate::trial::lacking;
use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags, ftruncate, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use std::os::fd::{AsFd, OwnedFd};

/// A mounted file system, and the disk under it.
pub(crate) struct FileSystem {
    // In this order: nothing may be left to write when the disk goes.
    mount: OwnedFd,
    _disk: Disk,
}

impl FileSystem {
    /// An empty one.
    pub(crate) fn new() -> Result<Self> {
        let disk = Disk::of(empty())?;
        let context = rustix::mount::fsopen("ext2", FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|error| lacking(format!("this kernel has no ext2: {error}")))?;
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", disk.path())?;
        rustix::mount::fsconfig_create(context.as_fd()).context("cannot use the disk as ext2")?;
        let mount = rustix::mount::fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .context("cannot mount the disk")?;
        Ok(Self { mount, _disk: disk })
    }

    /// A new file of so many bytes.
    pub(crate) fn file(&self, len: usize) -> Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(&self.mount, "file", flags, Mode::RUSR | Mode::WUSR)
            .context("cannot make a file on the disk")?;
        ftruncate(&file, len as u64)?;
        Ok(file)
    }
}

/// Blocks of 4 KiB: superblock, group, two bitmaps, inodes, root directory, and room for a file.
const BLOCKS: u32 = 64;
const INODES: u32 = 32;
const USED_BLOCKS: u32 = 6;
/// Those that the format keeps for itself, the root directory's among them.
const USED_INODES: u32 = 10;
/// `EXT2_ROOT_INO`.
const ROOT: u32 = 2;

/// A disk with an empty ext2.
fn empty() -> Vec<u8> {
    let mut disk = vec![0; BLOCKS as usize * KIB_4];
    let mut put = |block: usize, offset: usize, bytes: &[u8]| {
        disk[block * KIB_4 + offset..][..bytes.len()].copy_from_slice(bytes);
    };
    let (free_blocks, free_inodes) = (BLOCKS - USED_BLOCKS, INODES - USED_INODES);
    // Superblock: counts, 4 KiB blocks (1 KiB << 2), sizes of a group.
    let counts = [
        INODES,
        BLOCKS,
        0,
        free_blocks,
        free_inodes,
        0,
        2,
        2,
        32768,
        32768,
        INODES,
    ];
    for (index, number) in counts.into_iter().enumerate() {
        put(0, 1024 + index * 4, &number.to_le_bytes());
    }
    // Mounts until a check: never. Magic number. In order.
    for (offset, number) in [(54, 0xffff_u16), (56, 0xef53), (58, 1)] {
        put(0, 1024 + offset, &number.to_le_bytes());
    }
    // The group: where its bitmaps and inodes are, what is free, one directory.
    for (index, number) in [2, 3, 4, free_inodes << 16 | free_blocks, 1_u32]
        .into_iter()
        .enumerate()
    {
        put(1, index * 4, &number.to_le_bytes());
    }
    for (block, used, all) in [(2, USED_BLOCKS, BLOCKS), (3, USED_INODES, INODES)] {
        put(block, 0, &((1_u64 << used) - 1).to_le_bytes());
        // What is behind the end counts as used.
        put(
            block,
            all as usize / 8,
            &vec![0xff; KIB_4 - all as usize / 8],
        );
    }
    // The root directory: mode, size, links, sectors, its block.
    let root = (ROOT as usize - 1) * 128;
    put(4, root, &0o40_755_u16.to_le_bytes());
    put(4, root + 26, &2_u16.to_le_bytes());
    for (offset, number) in [(4, KIB_4 as u32), (28, 8), (40, 5)] {
        put(4, root + offset, &number.to_le_bytes());
    }
    // Its entries: inode, length of the entry, length of the name, name.
    for (offset, length, name) in [(0, 12, "."), (12, KIB_4 as u16 - 12, "..")] {
        put(5, offset, &ROOT.to_le_bytes());
        put(5, offset + 4, &length.to_le_bytes());
        put(5, offset + 6, &(name.len() as u16).to_le_bytes());
        put(5, offset + 8, name.as_bytes());
    }
    disk
}
