//! A block device whose every request this process answers, when it likes: the kernel's nbd driver on one end of a socket pair, a thread on the other. I/O on it is in flight for as long as a scenario wants.

use crate::trial::lacking;
use anyhow::{Context, Result, bail};
use rustix::fs::{Mode, OFlags, open};
use std::fs;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

const DEVICE: &str = "/dev/nbd0";
const SIZE: &str = "/sys/block/nbd0/size";

/// Bytes of a block, the least that can be read or written.
const BLOCK: usize = 4096;

// Requests of the kernel's `include/uapi/linux/nbd.h`, `_IO(0xab, n)`, which have their argument by value.
const SET_SOCK: u64 = 0xab00;
const SET_BLKSIZE: u64 = 0xab01;
const DO_IT: u64 = 0xab03;
const CLEAR_SOCK: u64 = 0xab04;
const SET_SIZE_BLOCKS: u64 = 0xab07;
const DISCONNECT: u64 = 0xab08;

/// What asks for something: `struct nbd_request`, in network order.
const REQUEST: [u8; 4] = 0x2560_9513_u32.to_be_bytes();
const REQUEST_LEN: usize = 28;
/// What answers it: `struct nbd_reply`.
const REPLY: [u8; 4] = 0x6744_6698_u32.to_be_bytes();

const READ: usize = 0;
const WRITE: usize = 1;
const END: usize = 2;

/// The device. It is gone when this is dropped.
pub(crate) struct Disk {
    device: Arc<OwnedFd>,
    shared: Arc<Shared>,
    arrived: Receiver<()>,
    server: Option<JoinHandle<io::Result<()>>>,
    driver: Option<JoinHandle<io::Result<()>>>,
}

struct Shared {
    contents: Mutex<Vec<u8>>,
    held: Mutex<bool>,
    released: Condvar,
}

impl Disk {
    /// A disk that holds these bytes, a multiple of 4 KiB, and answers at once until it is told to hold.
    pub(crate) fn of(contents: Vec<u8>) -> Result<Self> {
        if !Path::new(DEVICE).exists() {
            return Err(lacking("this kernel has no nbd"));
        }
        let device = open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open {DEVICE}"))?;
        let device = Arc::new(device);
        let (ours, its) = UnixStream::pair().context("a socket pair")?;
        let blocks = contents.len() / BLOCK;
        control(&device, SET_BLKSIZE, BLOCK).context("the disk's block size")?;
        control(&device, SET_SIZE_BLOCKS, blocks).context("the disk's size")?;
        control(&device, SET_SOCK, its.as_raw_fd() as usize).context("the disk's socket")?;
        let shared = Arc::new(Shared {
            contents: Mutex::new(contents),
            held: Mutex::new(false),
            released: Condvar::new(),
        });
        let (tell, arrived) = channel();
        let theirs = Arc::clone(&shared);
        let server = std::thread::spawn(move || serve(ours, &theirs, &tell));
        let its_device = Arc::clone(&device);
        // This call lasts as long as the device, and so does the kernel's end of the socket.
        let driver = std::thread::spawn(move || {
            let ended = control(&its_device, DO_IT, 0);
            drop(its);
            ended
        });
        let disk = Self {
            device,
            shared,
            arrived,
            server: Some(server),
            driver: Some(driver),
        };
        disk.wait_until_there()?;
        Ok(disk)
    }

    /// The device as a path.
    pub(crate) fn path(&self) -> &'static str {
        DEVICE
    }

    /// The device, past the page cache: the kernel moves bytes between disk and the caller's memory itself.
    pub(crate) fn direct(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
        open(DEVICE, flags, Mode::empty()).context("cannot open the disk for direct I/O")
    }

    /// From here on no request is answered.
    pub(crate) fn hold(&self) {
        *locked(&self.shared.held) = true;
    }

    /// Waits until a request is here that is not answered.
    pub(crate) fn wait_for_held(&self) -> Result<()> {
        self.arrived.recv().context("the disk's server is gone")
    }

    /// Answers what is held, and everything from here on.
    pub(crate) fn release(&self) {
        *locked(&self.shared.held) = false;
        self.shared.released.notify_all();
    }

    /// What is on the disk.
    pub(crate) fn contents(&self) -> MutexGuard<'_, Vec<u8>> {
        locked(&self.shared.contents)
    }

    /// The driver gives the device its size last, when it has everything else.
    fn wait_until_there(&self) -> Result<()> {
        loop {
            if fs::read_to_string(SIZE)?.trim() != "0" {
                return Ok(());
            }
            if self.driver.as_ref().is_none_or(JoinHandle::is_finished) {
                bail!("the kernel does not serve {DEVICE}");
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.release();
        // Asks the server to end, which ends the driver's call.
        let _ = control(&self.device, DISCONNECT, 0);
        for thread in [self.server.take(), self.driver.take()]
            .into_iter()
            .flatten()
        {
            let _ = thread.join();
        }
        let _ = control(&self.device, CLEAR_SOCK, 0);
    }
}

/// Answers requests, one after another, until it is asked to end.
fn serve(mut socket: UnixStream, shared: &Shared, arrived: &Sender<()>) -> io::Result<()> {
    loop {
        let mut request = [0; REQUEST_LEN];
        socket.read_exact(&mut request)?;
        if request[..4] != REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let number = |place: Range<usize>| {
            request[place]
                .iter()
                .fold(0, |number, byte| number << 8 | usize::from(*byte))
        };
        let start = number(16..24);
        let place = start..start + number(24..28);
        let mut held = locked(&shared.held);
        if *held {
            let _ = arrived.send(());
        }
        while *held {
            held = shared
                .released
                .wait(held)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(held);
        let mut reply = REPLY.to_vec();
        reply.extend_from_slice(&[0; 4]);
        // The request's cookie.
        reply.extend_from_slice(&request[8..16]);
        let mut contents = locked(&shared.contents);
        // Before it stand flags, which are about what happens on real disks.
        match number(6..8) {
            READ => reply.extend_from_slice(&contents[place]),
            WRITE => socket.read_exact(&mut contents[place])?,
            END => return Ok(()),
            _ => {}
        }
        drop(contents);
        socket.write_all(&reply)?;
    }
}

fn control(device: &OwnedFd, request: u64, argument: usize) -> io::Result<()> {
    // SAFETY: these requests take a number, and touch no memory of this process.
    match unsafe { libc::ioctl(device.as_raw_fd(), request, argument) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
