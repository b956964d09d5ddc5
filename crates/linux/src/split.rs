//! What has been proposed elsewhere for a failed huge page: map pages of 4 KiB in its place, and
//! copy into them what can still be read, 4 KiB at a time. Here to be measured against; a mend does
//! better.

use std::io;
use std::os::fd::AsFd;

use pagemend_core::address::FRAME_SIZE;

use crate::mapping::advise;
use crate::memory::GuestMemory;

impl GuestMemory {
    /// Puts 4 KiB pages in the place of `len` bytes from `offset` on, with the same bytes. What
    /// cannot be read faults from then on. Emulated errors are not known here: their bytes are
    /// copied.
    ///
    /// Everybody who uses the memory has to be stopped meanwhile: they would read zeroes. A mender
    /// that looks after it does not learn of it.
    ///
    /// # Errors
    ///
    /// Memory without a file, a range outside of it, or one that is not of whole pages; and what
    /// the kernel refuses, after which the range is of no use any more.
    pub fn split(&self, offset: u64, len: u64) -> io::Result<()> {
        let page_size = self.kind().page_size().bytes();
        let whole = offset.is_multiple_of(page_size) && len.is_multiple_of(page_size);
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        let file = self.file().ok_or(io::ErrorKind::Unsupported)?;
        if !whole || !inside || len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = self
            .hva()
            .checked_add(offset)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: MAP_FIXED over whole pages of our own mapping, of which no Rust reference exists.
        let mapped = unsafe {
            libc::mmap(
                start.get() as *mut _,
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the advice changes no byte.
        unsafe { advise(start, len, libc::MADV_NOHUGEPAGE)? };
        for frame in (0..len).step_by(FRAME_SIZE as usize) {
            // SAFETY: a frame of the mapping that was just made; nobody else uses it yet.
            let bytes = unsafe {
                std::slice::from_raw_parts_mut(
                    (start.get() + frame) as *mut u8,
                    FRAME_SIZE as usize,
                )
            };
            match rustix::io::pread(file.as_fd(), &mut *bytes, offset + frame) {
                Ok(read) if read == bytes.len() => {}
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(rustix::io::Errno::IO) => {
                    // SAFETY: the same frame, which from now on faults.
                    let forbidden = unsafe {
                        libc::mprotect(bytes.as_mut_ptr().cast(), bytes.len(), libc::PROT_NONE)
                    };
                    if forbidden != 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::memory::{GuestMemory, MemoryKind};

    #[test]
    fn the_bytes_stay_and_the_rest_of_the_memory_too() {
        let memory = GuestMemory::new(MemoryKind::Shmem, 8 << 12).unwrap();
        let words = memory.as_ptr().cast::<u64>();
        let count = memory.len() as usize / 8;
        for at in 0..count {
            // SAFETY: inside the memory, which nobody else uses.
            unsafe { words.add(at).write_volatile(at as u64) };
        }
        memory.split(2 << 12, 4 << 12).unwrap();
        for at in 0..count {
            // SAFETY: as above.
            assert_eq!(unsafe { words.add(at).read_volatile() }, at as u64);
        }
        for (offset, len) in [(1, 4096), (0, 0), (4 << 12, 5 << 12), (!0xfff, 4096)] {
            assert!(
                memory.split(offset, len).is_err(),
                "{len} bytes at {offset}"
            );
        }
        let private = GuestMemory::new(MemoryKind::Anonymous, 4096).unwrap();
        assert!(private.split(0, 4096).is_err(), "it has no file");
    }
}
