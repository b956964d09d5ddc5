//! The lab's host side: it finds QEMU and kernels, boots them with the lab's init program, lets scenarios run inside and judges what came of them.
//!
//! The way of a run, in the order of the files: [`Options`] → `cache` makes room → `program` builds the guest's program and asks it for its scenarios → `plan` puts scenarios together into boots and `room` sees how many fit side by side → `debian` has what is missing, and `kernel`, `modules`, `cpio`, `inside` and `image` make what is booted → `qemu` starts the machine → `boot` gives it scenarios, `session` talks to it, with `monitor` for what only the hypervisor can do → `console` looks for what the kernel did not report itself → `report`, `comparison`, `families`, `repeats`, `junit`, `table`, `outcomes` and `readme` say it, and `drift` says what is not as it was. `listing`, `attach` and `self_test` are what else there is to do.

mod attach;
mod boot;
mod cache;
mod comparison;
mod console;
mod cpio;
mod debian;
mod drift;
mod families;
mod image;
mod inside;
mod junit;
mod kernel;
mod listing;
mod modules;
mod monitor;
mod options;
mod outcomes;
mod plan;
mod program;
mod qemu;
mod readme;
mod repeats;
mod report;
mod room;
mod run;
mod self_test;
mod session;
mod table;

pub use attach::attach;
pub use debian::program;
pub use drift::differences;
pub use junit::write_junit;
pub use listing::listing;
pub use options::{Accelerator, Arch, Inside, Options, Program};
pub use outcomes::write_outcomes;
pub use pagemend_lab_protocol::{Report, Verdict};
pub use report::{failed, summary, write_json};
pub use run::{list, run};
pub use self_test::self_test;
pub use table::write_tables;
