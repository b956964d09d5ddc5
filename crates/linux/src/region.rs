//! Guest memory as a VMM hands it over, and what is really there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use pagemend_core::address::{Gpa, GpaRange, Hva, HvaRange, PageSize};
use pagemend_core::map::{Backing, Region, Source};
use pagemend_core::policy::{Consumer, Filling, Heal, Policy};

use crate::files::Files;
use crate::host::RegionFacts;
use crate::memory::GuestMemory;
use crate::settings::Settings;
use crate::smaps::{self, Vma};

/// `TMPFS_MAGIC` (include/uapi/linux/magic.h): what memfd and tmpfs files say of their file system.
const TMPFS_MAGIC: i64 = 0x0102_1994;
/// `HUGETLBFS_MAGIC`.
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// A region of guest memory to look after.
#[derive(Debug)]
pub struct RegionConfig {
    name: String,
    gpa: Gpa,
    hva: Hva,
    len: u64,
    file: Option<(OwnedFd, u64)>,
    policy: Policy,
    filling: Filling,
    heal: Heal,
    consumers: Vec<Consumer>,
    /// Memory that must stay mapped for as long as it is looked after.
    pub(crate) memory: Option<Arc<GuestMemory>>,
}

impl RegionConfig {
    /// `len` bytes of memory at `memory`, which the guest sees at `gpa`.
    ///
    /// # Safety
    ///
    /// Until the [`Pagemend`](crate::Pagemend) that gets it, and everything that its
    /// [`memory`](crate::Pagemend::memory) gave out, has been dropped, the memory must stay
    /// mapped, and no Rust reference may point into it: pages of it are replaced at any time.
    pub unsafe fn new(name: &str, gpa: Gpa, memory: *mut u8, len: u64) -> Self {
        Self {
            name: name.to_owned(),
            gpa,
            hva: Hva::new(memory as u64),
            len,
            file: None,
            policy: Policy::default(),
            filling: Filling::default(),
            heal: Heal::default(),
            consumers: vec![],
            memory: None,
        }
    }

    /// Memory of ours, which the guest sees at `gpa`.
    pub fn of(name: &str, gpa: Gpa, memory: Arc<GuestMemory>) -> io::Result<Self> {
        // SAFETY: the configuration keeps the memory alive, and the type gives no references out.
        let config = unsafe { Self::new(name, gpa, memory.as_ptr(), memory.len()) };
        let config = match memory.file() {
            Some(file) => config.file(file, 0)?,
            None => config,
        };
        Ok(Self {
            memory: Some(memory),
            ..config
        })
    }

    /// The file that the memory is mapped from, and where in it the region starts. Without it,
    /// or where it is mapped private, huge pages cannot be mended.
    pub fn file(self, file: impl AsFd, offset: u64) -> io::Result<Self> {
        let file = file.as_fd().try_clone_to_owned()?;
        Ok(Self {
            file: Some((file, offset)),
            ..self
        })
    }

    /// What is wanted for its poisoned pages. [`Policy::Mend`] unless said.
    pub fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// When the bytes of a mended page come back. [`Filling::OnDemand`] unless said: pages above 2 MiB
    /// are filled where they are touched first. Before all of such a page is there, whoever touches
    /// it otherwise than by a load or store of a thread or a vCPU gets the error that poisoned memory
    /// gives: the kernel on behalf of a system call, without a [lease](crate::Pagemend::lease).
    pub fn filling(self, filling: Filling) -> Self {
        Self { filling, ..self }
    }

    /// When a 2 MiB stretch that was broken up around lost frames becomes a huge page again.
    /// [`Heal::Never`] unless said: from then on lost frames can be read, as
    /// [`FILL`](pagemend_core::host::FILL), and written, and it is the guest that keeps off them.
    /// [`Heal::OnAck`] takes a VMM that says what the guest [has
    /// acknowledged](crate::Pagemend::acknowledged).
    pub fn heal(self, heal: Heal) -> Self {
        Self { heal, ..self }
    }

    /// Someone else who maps it, and whether the VMM makes that one follow a swap: by pausing it
    /// in the pause hook, and giving it the new segments before it lets it go on. One that cannot
    /// follow makes the region's pages ineligible for a swap.
    pub fn consumer(mut self, name: &str, follows: bool) -> Self {
        self.consumers.push(Consumer {
            name: name.to_owned(),
            follows,
        });
        self
    }
}

/// Why a region was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Its addresses wrap around.
    #[error("region '{name}': {len} bytes at {gpa} and {hva} pass the end of an address space")]
    Wraps {
        /// The region.
        name: String,
        /// Its guest address.
        gpa: Gpa,
        /// Its host address.
        hva: Hva,
        /// Its size in bytes.
        len: u64,
    },
    /// Not all of it is mapped.
    #[error("region '{name}': nothing is mapped at {hva}")]
    NotMapped {
        /// The region.
        name: String,
        /// The first address without memory.
        hva: Hva,
    },
    /// It is mapped in ways that differ.
    #[error(
        "region '{name}': the memory at {hva} is mapped differently from what is before it; make it a region of its own"
    )]
    Mixed {
        /// The region.
        name: String,
        /// Where the difference is.
        hva: Hva,
    },
    /// The file is not the one that is mapped.
    #[error(
        "region '{name}': the file given is not what is mapped at {hva}, or not at that offset"
    )]
    OtherFile {
        /// The region.
        name: String,
        /// Its host address.
        hva: Hva,
    },
    /// The file is on a file system that this does not know to treat.
    #[error(
        "region '{name}': its file is neither memfd, tmpfs nor hugetlbfs (file system {magic:#x})"
    )]
    FileSystem {
        /// The region.
        name: String,
        /// What statfs(2) says.
        magic: i64,
    },
    /// The system could not be asked.
    #[error("region '{name}': its mapping could not be looked up")]
    Lookup {
        /// The region.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// Looks at what is mapped there: how it can be treated is computed, never assumed.
pub(crate) fn inspect(
    config: RegionConfig,
    files: &Files,
) -> Result<(Region, Vec<RegionFacts>), RegionError> {
    let name = || config.name.clone();
    let lookup = |source: io::Error| RegionError::Lookup {
        name: name(),
        source,
    };
    let (gpa, hva) = GpaRange::new(config.gpa, config.len)
        .zip(HvaRange::new(config.hva, config.len))
        .ok_or_else(|| RegionError::Wraps {
            name: name(),
            gpa: config.gpa,
            hva: config.hva,
            len: config.len,
        })?;
    let vmas = smaps::mappings_of(hva).map_err(lookup)?;
    let first = uniform(&config.name, hva, &vmas)?;
    if let Some((file, offset)) = &config.file {
        check_file(&config.name, hva, first, file, *offset)?;
    }
    let backing = match (first.has("ht"), first.shared, &config.file) {
        (true, true, Some(_)) => Backing::Hugetlb,
        (true, ..) => Backing::HugetlbPrivate,
        (false, true, _) => Backing::Shmem,
        (false, false, _) => Backing::Anonymous,
    };
    if backing == Backing::HugetlbPrivate {
        tracing::warn!(
            region = config.name,
            page_size = %first.page_size,
            "private, anonymous or without its file: an error will lose a whole huge page"
        );
    }
    let facts = vmas
        .iter()
        .map(|vma| RegionFacts {
            hva: vma.range,
            settings: Settings::of(vma),
        })
        .collect();
    let page_size = match backing {
        Backing::Hugetlb | Backing::HugetlbPrivate => first.page_size,
        Backing::Shmem | Backing::Anonymous => PageSize::SIZE_4K,
    };
    // What a private mapping has of its own is not in the file, which others may have mapped.
    let source = config.file.filter(|_| first.shared);
    let source = source.map(|(file, offset)| Source {
        file: files.add(file),
        offset,
    });
    let region = Region {
        name: config.name,
        gpa,
        hva: config.hva,
        page_size,
        backing,
        source,
        policy: config.policy,
        filling: config.filling,
        heal: config.heal,
        consumers: config.consumers,
    };
    Ok((region, facts))
}

/// The first of the mappings, if together they cover the region and are of one kind.
fn uniform<'a>(name: &str, hva: HvaRange, vmas: &'a [Vma]) -> Result<&'a Vma, RegionError> {
    let mut at = hva.start();
    for vma in vmas {
        if vma.range.start() > at {
            break;
        }
        let like_first = |a: &Vma, b: &Vma| {
            let of = |vma: &Vma| (vma.shared, vma.writable, vma.page_size, vma.has("ht"));
            of(a) == of(b) && (a.device, a.inode) == (b.device, b.inode)
        };
        if !like_first(vma, &vmas[0]) {
            return Err(RegionError::Mixed {
                name: name.to_owned(),
                hva: vma.range.start(),
            });
        }
        at = vma.range.end();
    }
    match vmas.first() {
        Some(first) if at >= hva.end() && first.writable => Ok(first),
        _ => Err(RegionError::NotMapped {
            name: name.to_owned(),
            hva: at.min(hva.end()),
        }),
    }
}

fn check_file(
    name: &str,
    hva: HvaRange,
    first: &Vma,
    file: &OwnedFd,
    offset: u64,
) -> Result<(), RegionError> {
    let lookup = |source: rustix::io::Errno| RegionError::Lookup {
        name: name.to_owned(),
        source: source.into(),
    };
    let stat = rustix::fs::fstat(file).map_err(lookup)?;
    let mapped_offset = hva.start().get() - first.range.start().get() + first.offset;
    let same_file = (stat.st_dev, stat.st_ino) == (first.device, first.inode);
    if !same_file || mapped_offset != offset {
        return Err(RegionError::OtherFile {
            name: name.to_owned(),
            hva: hva.start(),
        });
    }
    let magic = rustix::fs::fstatfs(file).map_err(lookup)?.f_type;
    match magic {
        TMPFS_MAGIC | HUGETLBFS_MAGIC => Ok(()),
        _ => Err(RegionError::FileSystem {
            name: name.to_owned(),
            magic,
        }),
    }
}
