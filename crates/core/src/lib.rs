//! The engine of pagemend: what a memory failure costs, decided and recorded, on any host.
#![forbid(unsafe_code)]

pub mod address;
pub mod ledger;
pub mod time;
