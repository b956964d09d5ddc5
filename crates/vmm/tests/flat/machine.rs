//! A machine small enough for a test.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pagemend::probe::Pool;
use pagemend::{MemoryKind, PageSize, Policy, resize_pool};
use pagemend_vmm::{Console, CpuModel, MemoryConfig, Notify, Payload, Untold, VmConfig};

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
            filling: pagemend::Filling::default(),
            heal: pagemend::Heal::Never,
        },
        vcpus,
        cpu: CpuModel::Host,
        payload: Payload::Flat(code),
        console: Console::Off,
        channel: None,
        untold: Untold::Stop,
        notify: Notify::Auto,
        early: true,
        seccomp: pagemend_vmm::seccomp::Seccomp::On,
    }
}

/// The same on huge pages of 2 MiB, with as many to spare as `errors` take away.
pub(crate) fn huge(code: Vec<u8>, vcpus: u8, errors: u64) -> VmConfig {
    let mut config = config(code, vcpus);
    config.memory.kind = MemoryKind::Hugetlb(PageSize::SIZE_2M);
    let pool = Pool::of(PageSize::SIZE_2M).expect("a pool of 2 MiB pages");
    let missing = (32 + errors).saturating_sub(pool.spare());
    if missing > 0 {
        let grown = resize_pool(PageSize::SIZE_2M, pool.total + missing);
        assert_eq!(grown.ok(), Some(pool.total + missing), "the pool stays");
    }
    config
}
