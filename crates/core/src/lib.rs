//! The engine of pagemend: what a memory failure costs, decided and recorded, on any host.
//!
//! One uncorrectable error destroys 64 bytes; the kernel takes away the 2 MiB or 1 GiB page around
//! them. The engine saves what can be read, has new memory put under the same addresses, marks
//! only the lost 4 KiB frames, records them and tells everyone concerned. It knows no system call,
//! no thread and no clock: what it needs of the machine is the [`Host`](host::Host) trait, which
//! `pagemend-linux` implements, and the model that the tests run it on.
//!
//! The modules in the order in which a fault passes them: [`fault`] arrives, [`map`] locates it,
//! [`plan`] decides by the [`policy`], [`mender`] carries it out on a [`host`], [`ledger`]
//! records, [`event`] tells. [`address`] and [`time`] are the words that all of them use.
#![forbid(unsafe_code)]

pub mod address;
pub mod event;
pub mod fault;
pub mod host;
pub mod ledger;
pub mod map;
pub mod mender;
pub mod plan;
pub mod policy;
pub mod time;
