//! By which way a guest is told of what it has not touched: machine checks, or records.
//!
//! [`Router`] has both, and a [`Notify`] that says what is wanted. With [`Notify::Auto`] each loss
//! goes the way that suits what the guest has shown by then ([`choose`]), and what waits changes
//! over when it shows something else. What it touches is always told by a machine check, on the
//! vCPU that touched it.

mod capability;
mod choice;
mod router;

pub use capability::{Capability, Offered, SourceShown};
pub use choice::{Notify, Shown, UnknownNotify, Way, choose};
pub use router::{Counts, Moved, Routed, Router, Tended};
