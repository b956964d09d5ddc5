//! Memory with holes for tests: a touch of a lost frame is a real SIGBUS from the kernel, and the
//! handler here stands in for the process's intake with the verdict that a test asks for.
//!
//! The handler looks only at faults inside its own arena and leaves all others to the handler
//! before it, so that it can share a process with other tests of SIGBUS.

use std::cell::Cell;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use pagemend_core::address::Hva;

use super::land;
use super::landing::is_guarded;

pub(super) const FRAME: usize = 4096;
const ARENA: usize = 1 << 28;

/// What the handler does at a fault.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    /// Lost, with the address of the byte.
    Lost,
    /// Lost, with the address of its frame: what the kernel knows from a machine check.
    LostFrame,
    /// Mended: memory full of the given byte is there when the instruction runs again.
    Mended(u8),
    /// Lost at the first fault of an access and mended before its second.
    MendedAtLast(u8),
}

thread_local! {
    static VERDICT: Cell<Verdict> = const { Cell::new(Verdict::Lost) };
    static FAULTS: Cell<usize> = const { Cell::new(0) };
}

/// Runs `access` with another verdict than [`Verdict::Lost`], and returns its faults too.
pub(super) fn with_verdict<R>(verdict: Verdict, access: impl FnOnce() -> R) -> (R, usize) {
    VERDICT.set(verdict);
    FAULTS.set(0);
    let result = access();
    VERDICT.set(Verdict::Lost);
    (result, FAULTS.get())
}

static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// The start of the arena; the first call reserves it and installs the handler.
fn arena() -> usize {
    static START: OnceLock<usize> = OnceLock::new();
    *START.get_or_init(|| {
        // SAFETY: a reservation of address space somewhere free.
        let start = unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
            libc::mmap(null_mut(), ARENA, libc::PROT_NONE, flags, -1, 0)
        };
        assert_ne!(start, libc::MAP_FAILED);
        ARENA_START.store(start.expose_provenance(), Ordering::SeqCst);
        // SAFETY: all zeroes is a valid sigaction; the handler is async-signal-safe.
        let previous = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            let mut previous = std::mem::zeroed();
            assert_eq!(libc::sigaction(libc::SIGBUS, &action, &mut previous), 0);
            previous
        };
        PREVIOUS.set(previous).ok();
        start.addr()
    })
}

/// What the handler compares with: it may not wait for a [`OnceLock`].
static ARENA_START: AtomicUsize = AtomicUsize::new(usize::MAX);

extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes valid pointers to a handler with SA_SIGINFO.
    let (address, context) = unsafe {
        (
            (*info).si_addr().addr(),
            &mut *context.cast::<libc::ucontext_t>(),
        )
    };
    let offset = address.wrapping_sub(ARENA_START.load(Ordering::SeqCst));
    if offset >= ARENA || !is_guarded(context) {
        // At the return the instruction faults again, now into the handler before this one.
        let previous = PREVIOUS.get().map_or(std::ptr::null(), |p| p);
        // SAFETY: restores what was there.
        unsafe { libc::sigaction(libc::SIGBUS, previous, null_mut()) };
        return;
    }
    FAULTS.set(FAULTS.get() + 1);
    match VERDICT.get() {
        Verdict::Lost => assert!(land(context, address)),
        Verdict::LostFrame => assert!(land(context, address & !(FRAME - 1))),
        Verdict::Mended(byte) => fill_hole(address, byte),
        Verdict::MendedAtLast(_) if FAULTS.get() == 1 => assert!(land(context, address)),
        Verdict::MendedAtLast(byte) => fill_hole(address, byte),
    }
}

fn fill_hole(address: usize, byte: u8) {
    let frame = std::ptr::with_exposed_provenance_mut(address & !(FRAME - 1));
    // SAFETY: the frame is a hole of the arena, of which no reference exists.
    unsafe {
        map(frame, 1, -1);
        libc::memset(frame, byte.into(), FRAME);
    }
}

/// Maps frames of `file`, or anonymous ones, over part of the arena.
///
/// # Safety
///
/// Nothing else uses that part.
unsafe fn map(at: *mut libc::c_void, frames: usize, file: i32) {
    let kind = if file < 0 { libc::MAP_ANONYMOUS } else { 0 };
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_FIXED | kind;
    // SAFETY: as promised by the caller.
    let mapped = unsafe { libc::mmap(at, frames * FRAME, access, flags, file, 0) };
    assert_eq!(mapped, at);
}

/// Frames in a row, some of them lost.
pub(super) struct Patchwork {
    start: *mut u8,
    frames: usize,
}

impl Patchwork {
    /// One frame a letter: `.` is healthy and zeroed, `x` is lost.
    pub(super) fn new(pattern: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let offset = NEXT.fetch_add(pattern.len() * FRAME, Ordering::SeqCst);
        assert!(offset + pattern.len() * FRAME <= ARENA, "the arena is full");
        let start: *mut u8 = std::ptr::with_exposed_provenance_mut(arena() + offset);
        // SAFETY: a file without a name. Being empty, it has no byte behind a mapping of it.
        let empty = unsafe { libc::memfd_create(c"lost".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(empty >= 0);
        for (index, letter) in pattern.bytes().enumerate() {
            let file = if letter == b'x' { empty } else { -1 };
            // SAFETY: this part of the arena is this patchwork's alone.
            unsafe { map(start.add(index * FRAME).cast(), 1, file) };
        }
        // SAFETY: the mappings keep the file.
        unsafe { libc::close(empty) };
        Self {
            start,
            frames: pattern.len(),
        }
    }

    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.frames * FRAME);
        self.start.wrapping_add(offset)
    }

    pub(super) fn hva(&self, offset: usize) -> Hva {
        Hva::new(self.at(offset).addr() as u64)
    }

    /// The bytes of a healthy stretch.
    pub(super) fn bytes(&self, offset: usize, len: usize) -> Vec<u8> {
        // SAFETY: mapped, and only this test's thread uses it; a lost frame ends the test.
        unsafe { std::slice::from_raw_parts(self.at(offset), len) }.to_vec()
    }

    /// Fills a healthy stretch.
    pub(super) fn set(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.frames * FRAME);
        // SAFETY: mapped, and only this test's thread uses it; a lost frame ends the test.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset), bytes.len()) };
    }
}

/// Bytes of which none is like its neighbours.
pub(super) fn distinct(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251 + 1) as u8).collect()
}
