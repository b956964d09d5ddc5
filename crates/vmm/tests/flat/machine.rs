//! A machine small enough for a test.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pagemend::{MemoryKind, Policy};
use pagemend_vmm::{Console, CpuModel, MemoryConfig, Payload, Untold, VmConfig};

/// A process has one mender, and so one machine at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn config(code: Vec<u8>, vcpus: u8) -> VmConfig {
    VmConfig {
        memory: MemoryConfig {
            bytes: 64 << 20,
            kind: MemoryKind::Shmem,
            policy: Policy::Mend,
        },
        vcpus,
        cpu: CpuModel::Host,
        payload: Payload::Flat(code),
        console: Console::Off,
        channel: None,
        untold: Untold::Stop,
        early: true,
    }
}
