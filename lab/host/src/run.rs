//! A whole run: every selected scenario on every kernel, some machines side by side.

use crate::inside::{self, Files};
use crate::kernel::Kernel;
use crate::options::{Accelerator, Options};
use crate::plan::Batch;
use crate::{boot, cache, image, kernel, plan, program, qemu, report, room};
use anyhow::Result;
use pagemend_lab_protocol::{Report, ScenarioInfo};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// All scenarios, the selected ones if names are given.
///
/// # Errors
/// The guest program does not build, or a name selects nothing.
pub fn list(options: &Options) -> Result<Vec<ScenarioInfo>> {
    let scenarios = program::scenarios(&program::build(options)?)?;
    if options.names.is_empty() {
        return Ok(scenarios);
    }
    plan::select(scenarios, &options.names, options.all)
}

/// Runs what the options select and gives a report for each scenario and kernel.
///
/// # Errors
/// Something that the lab needs is missing: the text names it and what provides it. A failing scenario is a report, not an error.
pub fn run(options: &Options) -> Result<Vec<Report>> {
    let _held = cache::hold(&options.cache)?;
    let program = program::build(options)?;
    let selected = plan::select(program::scenarios(&program)?, &options.names, options.all)?;
    qemu::ensure(options)?;
    // Everything that can be missing is got before the first boot, so that nothing that has run is lost for it.
    let inside = selected.iter().any(|scenario| scenario.needs.guests);
    let kernels: Vec<Bootable> = options
        .kernels
        .iter()
        .map(|wanted| Bootable::get(options, wanted, &program, inside))
        .collect::<Result<_>>()?;
    let mut reports = Vec::new();
    for bootable in &kernels {
        let batches = plan::batches(selected.clone(), options.memory);
        let (with, without): (Vec<_>, Vec<_>) = batches.into_iter().partition(|batch| batch.guests);
        for (batches, initramfs) in [(without, &bootable.plain), (with, &bootable.loaded)] {
            if batches.is_empty() {
                continue;
            }
            let alone = options.accelerator == Accelerator::Tcg && batches[0].guests;
            let room = room::here(options.jobs, &batches, alone);
            eprintln!("lab: {}", room.words);
            let found = side_by_side(room.machines, batches, |batch, worker| {
                let processor = alone.then(|| worker % room::processors());
                boot::run(
                    options,
                    &bootable.kernel,
                    initramfs,
                    batch,
                    processor,
                    report::progress,
                )
            })?;
            reports.extend(found);
        }
    }
    Ok(reports)
}

/// A kernel with the first file systems that it is booted with.
struct Bootable {
    kernel: Kernel,
    plain: PathBuf,
    /// The one that carries what runs virtual machines, where any do.
    loaded: PathBuf,
}

impl Bootable {
    fn get(options: &Options, wanted: &str, program: &Path, inside: bool) -> Result<Self> {
        let kernel = kernel::find(wanted, options.arch, &options.cache)?;
        if kernel.modules.is_none() {
            eprintln!(
                "lab: no modules for {}: what it has not built in is skipped",
                kernel.image.display()
            );
        }
        let image =
            |files: &Files| image::initramfs(&kernel, program, options.arch, files, &options.cache);
        let plain = image(&Files::new())?;
        let loaded = match inside {
            true => image(&inside::files(options, &kernel)?)?,
            false => plain.clone(),
        };
        Ok(Self {
            kernel,
            plain,
            loaded,
        })
    }
}

/// Boots batches, at most `machines` at a time, until none is left.
fn side_by_side(
    machines: usize,
    batches: Vec<Batch>,
    boot: impl Fn(&Batch, usize) -> boot::Outcome + Sync,
) -> Result<Vec<Report>> {
    let queue = Mutex::new(VecDeque::from(batches));
    let reports = Mutex::new(Vec::new());
    let work = |worker: usize| {
        loop {
            // Taken in a statement of its own, so that nobody waits for a boot.
            let next = queue.lock().expect("no thread panics with it").pop_front();
            let Some(batch) = next else { return };
            let outcome = boot(&batch, worker);
            reports
                .lock()
                .expect("no thread panics with it")
                .extend(outcome.reports);
            queue
                .lock()
                .expect("no thread panics with it")
                .extend(outcome.left);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..machines)
            .map(|worker| scope.spawn(move || work(worker)))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .map_err(|_| anyhow::anyhow!("a boot's thread panicked"))
        })
    })?;
    let mut reports = reports.into_inner().expect("all threads are gone");
    reports.sort_by(|a: &Report, b| a.name.cmp(&b.name));
    Ok(reports)
}
