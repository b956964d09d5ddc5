//! The kinds of memory that a guest can have, each opened and filled the same way, so that every way to break memory can be tried on each.

use crate::memory::{self, GIB_1, KIB_4, MIB_2, Mapping};
use crate::pages::Pool;
use crate::pattern::fill;
use crate::persistent;
use anyhow::{Context, Result};
use pagemend_lab_protocol::Needs;
use rustix::mm::MapFlags;
use std::os::fd::OwnedFd;

/// A kind of memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Backing {
    Hugetlb2M,
    Hugetlb1G,
    HugetlbfsFile,
    HugetlbfsPrivate,
    HugetlbAnonymous,
    Shmem,
    ShmemHuge,
    AnonymousHuge,
    Devdax,
}

/// Memory of some kind, filled with the pattern.
pub(crate) struct Subject {
    /// The file behind it, if there is one.
    pub(crate) file: Option<OwnedFd>,
    /// The mapping that breaks.
    pub(crate) first: Mapping,
    /// Another mapping of the same file in this process.
    pub(crate) second: Option<Mapping>,
}

impl Backing {
    pub(crate) const ALL: [Self; 9] = [
        Self::Hugetlb2M,
        Self::Hugetlb1G,
        Self::HugetlbfsFile,
        Self::HugetlbfsPrivate,
        Self::HugetlbAnonymous,
        Self::Shmem,
        Self::ShmemHuge,
        Self::AnonymousHuge,
        Self::Devdax,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hugetlb2M => "hugetlb-2m",
            Self::Hugetlb1G => "hugetlb-1g",
            Self::HugetlbfsFile => "hugetlbfs-file",
            Self::HugetlbfsPrivate => "hugetlbfs-private",
            Self::HugetlbAnonymous => "hugetlb-anonymous",
            Self::Shmem => "shmem",
            Self::ShmemHuge => "shmem-huge",
            Self::AnonymousHuge => "anonymous-huge",
            Self::Devdax => "devdax",
        }
    }

    /// In words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Hugetlb2M => "a memfd of 2 MiB pages",
            Self::Hugetlb1G => "a memfd of 1 GiB pages",
            Self::HugetlbfsFile => "a hugetlbfs file of 2 MiB pages",
            Self::HugetlbfsPrivate => "a private mapping of a hugetlbfs file of 2 MiB pages",
            Self::HugetlbAnonymous => "anonymous 2 MiB pages from the pool",
            Self::Shmem => "a memfd of 4 KiB pages",
            Self::ShmemHuge => "a tmpfs file of transparent huge pages",
            Self::AnonymousHuge => "anonymous transparent huge pages",
            Self::Devdax => "a devdax device with 2 MiB pages",
        }
    }

    /// Bytes of one page of it, and of a [`Subject`].
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Hugetlb1G => GIB_1,
            _ => MIB_2,
        }
    }

    /// Two pages of the pool: one to break, and one for whoever touches the place after it was freed.
    pub(crate) fn needs(self) -> Needs {
        match self {
            Self::Hugetlb1G => Needs::NOTHING.huge_1g(2).seconds(600),
            Self::Hugetlb2M
            | Self::HugetlbfsFile
            | Self::HugetlbfsPrivate
            | Self::HugetlbAnonymous => Needs::NOTHING.huge_2m(2),
            Self::Shmem | Self::ShmemHuge | Self::AnonymousHuge => Needs::NOTHING,
            Self::Devdax => Needs::NOTHING.persistent(),
        }
    }

    /// The pool that it comes from.
    pub(crate) fn pool(self) -> Option<Pool> {
        match self {
            Self::Hugetlb1G => Some(Pool::one_gib()),
            Self::Hugetlb2M
            | Self::HugetlbfsFile
            | Self::HugetlbfsPrivate
            | Self::HugetlbAnonymous => Some(Pool::two_mib()),
            Self::Shmem | Self::ShmemHuge | Self::AnonymousHuge | Self::Devdax => None,
        }
    }

    /// Opens it, maps it and fills it.
    pub(crate) fn open(self) -> Result<Subject> {
        let len = self.len();
        let file = match self {
            Self::Hugetlb2M => Some(memory::hugetlb_2m(len)?),
            Self::Hugetlb1G => Some(memory::hugetlb_1g(len)?),
            Self::HugetlbfsFile => Some(memory::hugetlbfs_file(len)?),
            Self::Shmem => Some(memory::shmem(len)?),
            Self::ShmemHuge => Some(memory::shmem_huge(len)?),
            Self::Devdax => Some(persistent::device()?),
            Self::HugetlbfsPrivate | Self::HugetlbAnonymous | Self::AnonymousHuge => None,
        };
        let first = match &file {
            Some(file) => Mapping::shared(file, len, len)?,
            // What it has of its own is not in the file.
            None if self == Self::HugetlbfsPrivate => {
                let file = memory::hugetlbfs_file(len)?;
                Mapping::file(file, len, len, MapFlags::PRIVATE)?
            }
            None if self == Self::HugetlbAnonymous => {
                Mapping::anonymous(len, len, MapFlags::HUGETLB | MapFlags::HUGE_2MB)?
            }
            None => {
                let mapping = Mapping::anonymous(len, len, MapFlags::empty())?;
                mapping
                    .advise(libc::MADV_HUGEPAGE)
                    .context("cannot ask for huge pages")?;
                mapping
            }
        };
        fill(first.base(), len);
        let second = file
            .as_ref()
            .map(|file| Mapping::shared(file, len, len))
            .transpose()?;
        if let Some(second) = &second {
            for offset in (0..len).step_by(KIB_4) {
                // Mapped everywhere, so that the kernel finds it when it looks for who has the page.
                let _ = crate::faults::load(second.base() + offset);
            }
        }
        Ok(Subject {
            file,
            first,
            second,
        })
    }
}
