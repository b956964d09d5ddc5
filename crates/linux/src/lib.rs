//! The engine on Linux.

pub mod abi;
mod capabilities;
mod emulate;
mod files;
mod futex;
pub mod guard;
mod host;
mod intake;
pub mod kernel_default;
mod lease;
mod mapping;
mod memory;
mod pool;
pub mod probe;
mod region;
mod runtime;
mod settings;
mod smaps;
mod stage;
mod uffd;

pub use host::HostError;
pub use lease::{Lease, LeaseError, LeaseHeld};
pub use memory::{GuestMemory, MemoryError, MemoryKind, available_memory};
pub use pool::resize_pool;
pub use region::{RegionConfig, RegionError};
pub use runtime::{
    BuildError, Builder, Emulated, Inject, InjectError, Madvise, Pagemend, TooManyVcpus, VcpuFault,
    VcpuThread,
};
pub use stage::Stage;
pub use uffd::{Origin, UffdError};
