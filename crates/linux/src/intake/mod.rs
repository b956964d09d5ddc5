//! How faults come in: SIGBUS in whatever thread touched the memory, and in the mender's own for
//! errors that nobody has touched yet.
//!
//! A thread that met a fault leaves it in a slot and waits there for the answer; where that is
//! *mended* it returns from the handler and the access is executed once more. A vCPU thread is not
//! kept in the handler: it is inside a system call, and asks when that has returned.
//!
//! There is one of everything here, because a process has one SIGBUS handler.

mod handler;
mod last_words;
pub(crate) mod notice;
pub(crate) mod ranges;
pub(crate) mod slot;
pub(crate) mod threads;

pub(crate) use handler::{in_menders_process, install, set_mender_thread, uninstall};
