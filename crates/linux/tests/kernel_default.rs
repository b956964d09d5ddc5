//! The kernel's default is measured by a process that gives up its SIGBUS handler, so this test has
//! a process to itself.

use pagemend_core::address::FRAME_SIZE;
use pagemend_linux::kernel_default::bytes_lost;
use pagemend_linux::{GuestMemory, MemoryKind};

#[test]
fn without_an_error_nothing_is_lost() {
    let memory = GuestMemory::new(MemoryKind::Shmem, 16 * FRAME_SIZE).unwrap();
    assert_eq!(bytes_lost(&memory, &[]).unwrap(), 0);
}
