//! Kernel I/O that has guest memory pinned: a read from a pipe into a fixed buffer of io_uring.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, opcode, types};
use pagemend_core::address::PageSize;
use pagemend_core::event::Step;
use pagemend_core::plan::{Action, Reason};
use pagemend_linux::MemoryKind;

use crate::guest::{Guest, MIB, frames, gpa, pattern, range};
use crate::wait;

/// Where the data goes, and a frame of the same huge page that fails meanwhile.
const BUFFER: u64 = 2 * MIB + 0x1000;
const LOST: u64 = 2 * MIB + 0x3000;
const DATA: u64 = 0x0bad_cafe_0bad_cafe;

/// A read of one word that waits for its data, into guest memory that was pinned at its start.
struct SlowRead {
    ring: IoUring,
    writer: PipeWriter,
    _reader: PipeReader,
}

impl SlowRead {
    fn start(guest: &Guest) -> Self {
        let (reader, writer) = pipe().unwrap();
        let mut ring = IoUring::new(2).unwrap();
        let buffer = libc::iovec {
            iov_base: guest.word(BUFFER).cast(),
            iov_len: 4096,
        };
        // SAFETY: guest memory that outlives the ring.
        unsafe { ring.submitter().register_buffers(&[buffer]) }.unwrap();
        let fd = types::Fd(reader.as_raw_fd());
        let read = opcode::ReadFixed::new(fd, guest.word(BUFFER).cast(), 8, 0).build();
        // SAFETY: the buffer is registered, and the pipe lives as long as the ring.
        unsafe { ring.submission().push(&read) }.unwrap();
        ring.submit().unwrap();
        assert!(ring.completion().next().is_none(), "there is no data yet");
        Self {
            ring,
            writer,
            _reader: reader,
        }
    }

    fn finish(mut self) {
        self.writer.write_all(&DATA.to_ne_bytes()).unwrap();
        self.ring.submit_and_wait(1).unwrap();
        assert_eq!(self.ring.completion().next().unwrap().result(), 8);
    }
}

#[test]
fn without_a_lease_a_slow_writer_loses_its_data_in_the_old_page() {
    let guest = Guest::huge(8 * MIB);
    let read = SlowRead::start(&guest);
    guest.fail(LOST);
    assert_eq!(guest.load(BUFFER), pattern(gpa(BUFFER)));
    read.finish();
    assert_eq!(guest.load(BUFFER), pattern(gpa(BUFFER)), "this is the need");
    let old = File::from(guest.memory.file().unwrap().try_clone_to_owned().unwrap());
    let mut word = [0; 8];
    old.read_exact_at(&mut word, BUFFER).unwrap();
    assert_eq!(u64::from_ne_bytes(word), DATA);
}

#[test]
fn with_a_lease_the_mend_waits_and_the_data_is_there() {
    // Far from being reached: a slow machine must not abandon the page.
    let limit = Duration::from_secs(60);
    let kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
    let guest = Guest::with(kind, 8 * MIB, |builder| builder.lease_limit(limit));
    let lease = guest.pagemend.lease(range(BUFFER, 4096)).unwrap();
    let read = SlowRead::start(&guest);
    guest.fail(LOST);
    thread::scope(|scope| {
        let toucher = wait::stuck(scope, || guest.load(BUFFER));
        // Leases elsewhere go on, while the mender waits for this one.
        drop(guest.pagemend.lease(range(4 * MIB, 4096)).unwrap());
        read.finish();
        assert!(!toucher.is_finished());
        assert!(!guest.steps().iter().any(|step| matches!(step, Step::Claim)));
        drop(lease);
        assert_eq!(toucher.join().unwrap(), DATA);
    });
    guest.store(BUFFER, pattern(gpa(BUFFER)));
    guest.check_all_but(&[LOST]);
}

#[test]
fn a_lease_that_does_not_end_in_time_makes_the_page_stay_poisoned_and_says_why() {
    let limit = Duration::from_millis(20);
    let kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
    let guest = Guest::with(kind, 8 * MIB, |builder| builder.lease_limit(limit));
    let lease = guest.pagemend.lease(range(BUFFER, 4096)).unwrap();
    guest.fail(LOST);
    let memory = guest.pagemend.memory("ram").unwrap();
    assert!(memory.load::<u64>(gpa(BUFFER)).is_err());
    drop(lease);
    guest.check_all_but(&frames(2 * MIB, 2 * MIB));
    let [(Action::Abandon, reasons)] = &guest.outcomes()[..] else {
        panic!("{:?}", guest.outcomes());
    };
    let [Reason::StepFailed { step, error }] = &reasons[..] else {
        panic!("{reasons:?}");
    };
    assert_eq!(step, "claim");
    assert!(
        error.contains("1 I/O leases") && error.contains("20ms"),
        "{error}"
    );
}

#[test]
fn a_lease_on_a_page_that_was_given_up_is_had_at_once() {
    let limit = Duration::from_millis(1);
    let kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
    let guest = Guest::with(kind, 8 * MIB, |builder| builder.lease_limit(limit));
    let first = guest.pagemend.lease(range(BUFFER, 4096)).unwrap();
    guest.fail_untouched(LOST);
    let second = guest.pagemend.lease(range(BUFFER, 4096)).unwrap();
    assert_eq!(first.range(), second.range());
}
