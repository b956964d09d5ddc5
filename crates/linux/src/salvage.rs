//! Reading what is left of a page into new memory.

use std::io;
use std::os::fd::AsRawFd;

use pagemend_core::address::PageSize;
use pagemend_core::host::Salvaged;
use pagemend_core::map::Source;

use crate::host::{HostError, LinuxHost, call};
use crate::mapping::{FileView, Mapping, advise};
use crate::stage::Stage;

/// Bytes in the bounce buffer: the largest page that is salvaged through it, and then written to new
/// memory all at once. The kernel zeroes memory that it maps, but none that is written whole; and two
/// copies through the caches take less time than zeroing and one copy.
const BOUNCE: u64 = 2 << 20;

impl LinuxHost {
    pub(crate) fn salvage_into(
        &mut self,
        stage: &mut Stage,
        offset: u64,
        len: u64,
    ) -> Result<Salvaged, HostError> {
        let (source, rest) = stage.target().source_at(offset).ok_or(HostError::NoFile)?;
        let bounced = stage.target().page.len() <= BOUNCE && stage.takes_writes();
        let to = if bounced {
            self.leave_out(stage, offset)?
        } else {
            stage.fill_at(offset)
        };
        match self.read(source, to, len.min(rest)) {
            Ok(0) => Err(HostError::FileEnds {
                offset: source.offset,
            }),
            Ok(read) => {
                if bounced {
                    stage.bounced = Some(offset + read as u64);
                }
                Ok(Salvaged::Bytes(read as u64))
            }
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(Salvaged::Unreadable),
            Err(error) => Err(call("reading the page")(error)),
        }
    }

    /// Writes what was read through the bounce buffer to the stage's memory.
    pub(crate) fn finish_filling(&mut self, stage: &mut Stage) -> Result<(), HostError> {
        if stage.bounced.is_none() {
            return Ok(());
        }
        let len = stage.target().page.len();
        self.leave_out(stage, len)?;
        stage.bounced = None;
        let base = self.bounce()?.at(0);
        // SAFETY: our own buffer, of which as much was written since the page's first read.
        let bytes = unsafe { std::slice::from_raw_parts(base, len as usize) };
        stage.write(bytes).map_err(call("writing to new memory"))
    }

    /// Zeroes what of the bounce buffer was not read to before `offset`: it holds bytes of the page
    /// before. Gives the place of `offset`.
    fn leave_out(&mut self, stage: &Stage, offset: u64) -> Result<*mut u8, HostError> {
        let bounce = self.bounce()?;
        let from = stage.bounced.unwrap_or(0);
        // SAFETY: both lie in the buffer, which holds a page, and the offsets of a page only go up.
        unsafe {
            bounce
                .at(from)
                .write_bytes(0, offset.saturating_sub(from) as usize);
        }
        Ok(bounce.at(offset))
    }

    fn bounce(&mut self) -> Result<&Mapping, HostError> {
        let bounce = match self.bounce.take() {
            Some(bounce) => bounce,
            None => bounce_buffer().map_err(call("getting a bounce buffer"))?,
        };
        Ok(self.bounce.insert(bounce))
    }

    /// Whether a frame of a file cannot be read because it has failed. A byte of a healthy one is read.
    pub(crate) fn is_unreadable(&self, frame: Source) -> bool {
        let mut byte = 0u8;
        let read = self.read(frame, &raw mut byte, 1);
        read.is_err_and(|error| error.raw_os_error() == Some(libc::EIO))
    }

    /// One read of the page, as the kernel answers it: short before an unreadable frame, EIO at one.
    fn read(&self, source: Source, to: *mut u8, len: u64) -> Result<usize, io::Error> {
        let readable = self.emulation.readable(source, len);
        if readable == 0 {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let file = self.files.get(source.file);
        // SAFETY: the caller has `len` bytes at `to` that nobody else uses.
        let read = unsafe {
            libc::pread(
                file.as_raw_fd(),
                to.cast(),
                readable as usize,
                source.offset as libc::off_t,
            )
        };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }
}

/// A buffer that is one huge page where there is one.
fn bounce_buffer() -> io::Result<Mapping> {
    let file = rustix::fs::memfd_create("pagemend-bounce", rustix::fs::MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, BOUNCE)?;
    let mapping = Mapping::reserve(BOUNCE, PageSize::SIZE_2M)?;
    mapping.map(
        &file,
        FileView {
            at: 0,
            len: BOUNCE,
            offset: 0,
        },
    )?;
    // SAFETY: advice on a buffer that is still empty.
    unsafe { advise(mapping.hva(), BOUNCE, libc::MADV_POPULATE_WRITE) }?;
    Ok(mapping)
}
