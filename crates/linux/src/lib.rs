//! The engine on Linux: the `Host` that `pagemend-core` decides for, and the thread that runs it.
//!
//! The private modules in the order in which a fault passes them: `intake` receives it, `runtime`
//! takes it to the mender, and `host` does what the mender says: `lease` waits for I/O in flight,
//! `stage` makes new memory from `files`, with `settings` as the old had, `salvage` fills it, `uffd`
//! marks it, `mapping` moves it into place, `restore` undoes that, `renew` does without,
//! `cover` stands where a page comes back in parts, `heal` makes huge pages of small ones. `region` and `smaps` find out what a VMM's memory is,
//! `memory` makes some for those who have none, `emulate` makes it fail,
//! `split` does what others have proposed.
//!
//! Embedders use the `pagemend` crate, which gives all of this under one roof.

pub mod abi;
mod capabilities;
mod cover;
mod emulate;
mod files;
mod futex;
pub mod guard;
mod heal;
mod host;
mod intake;
pub mod kernel_default;
mod lease;
mod mapping;
mod memory;
mod pool;
pub mod probe;
mod region;
mod renew;
mod restore;
mod runtime;
mod salvage;
mod settings;
mod smaps;
mod split;
mod stage;
mod uffd;

pub use lease::{Lease, LeaseError, LeaseHeld};
pub use memory::{GuestMemory, MemoryError, MemoryKind, available_memory};
pub use pool::resize_pool;
pub use region::{RegionConfig, RegionError};
pub use runtime::{
    BuildError, Builder, CorruptPfn, Emulated, Inject, InjectError, Madvise, MenderGone, Pagemend,
    TooManyVcpus, VcpuFault, VcpuThread,
};
pub use uffd::{Origin, UffdError};
