//! `pagemend demo`, because a claim about lost memory is believed when it is seen: workers use all
//! of a guest's memory while errors strike it, and testify what was lost.

mod error;
mod kernel_default;
mod memory;
mod picture;
mod report;
mod run;
mod svg;
mod text;
mod timeline;
mod worker;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::{Args, ValueEnum};
use pagemend::probe::Host;
use pagemend::{FRAME_SIZE, Policy};

use self::error::DemoError;
use self::kernel_default::KernelDefault;
pub(crate) use self::kernel_default::Measure;
use self::memory::{Chosen, Wanted};
use self::report::Report;
use crate::chain;
use crate::interrupt::{self, INTERRUPTED};
use crate::layout;
use crate::pages::Pages;
use crate::size::Size;

/// The exit code where the demonstration could not be held.
const CANNOT: u8 = 2;

/// Shows what is lost when memory fails under a running load, and proves it.
///
/// Worker threads check and rewrite every word of a guest's memory while errors are injected into
/// random frames of it. Takes the best memory that this machine has; needs no privilege and no
/// pool of huge pages.
///
/// Exits with 0 when the proof holds, with 1 when it does not, with 2 when the demonstration could
/// not be held, and with 130 when it was interrupted.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Guest memory, such as 512M. 256M unless said, 2G with pages of 1 GiB.
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// What the memory is made of. The best there is unless said. A pool that is too small is grown
    /// where it can be, one of 1 GiB pages only if it is named here, and shrunk again at the end.
    #[arg(long)]
    page_size: Option<Pages>,
    /// Errors to inject, each into another frame of 4 KiB.
    #[arg(long, default_value_t = 16, value_name = "N")]
    errors: u64,
    /// Decides which frames fail.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is wanted for a page that fails: mend, keep, discard or abandon.
    #[arg(long, default_value_t)]
    policy: Policy,
    /// Where errors come from: only this process knows of emulated ones; with madvise, the kernel
    /// takes the memory out of use until the next boot.
    #[arg(long, value_enum, default_value_t)]
    inject: Injection,
    /// Threads that use the memory. One for each processor unless said, from 2 to 8.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    threads: Option<u64>,
    /// Also draw it.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print JSON (schema pagemend.demo/1) instead of text.
    #[arg(long)]
    json: bool,
}

/// Where errors come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Injection {
    #[default]
    Emulated,
    Madvise,
}

impl Injection {
    fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::Madvise => "madvise",
        }
    }
}

/// What is demonstrated, once it is decided.
#[derive(Clone, Debug)]
struct Settings {
    errors: u64,
    seed: u64,
    policy: Policy,
    inject: Injection,
    threads: u64,
}

impl Demo {
    pub(crate) fn run(self) -> io::Result<ExitCode> {
        match self.held() {
            Ok(Some(report)) => {
                self.show(&report)?;
                Ok(ExitCode::from(u8::from(!report.proven)))
            }
            Ok(None) => {
                anstream::eprintln!("pagemend demo: interrupted before anything was proven");
                Ok(ExitCode::from(INTERRUPTED))
            }
            Err(DemoError::Output(error)) => Err(error),
            Err(error) => {
                anstream::eprintln!("pagemend demo: {}", chain(&error));
                Ok(ExitCode::from(CANNOT))
            }
        }
    }

    /// Holds the demonstration; `None` if it was interrupted.
    fn held(&self) -> Result<Option<Report>, DemoError> {
        if self.inject == Injection::Madvise {
            check_real_errors()?;
        }
        let interrupted = interrupt::noted().map_err(|source| DemoError::System {
            what: "Ctrl-C cannot be handled",
            source,
        })?;
        let wanted = Wanted {
            pages: self.page_size,
            bytes: self.memory.map(|Size(bytes)| bytes),
            replacements: match self.policy {
                Policy::Abandon => 0,
                _ => self.errors,
            },
        };
        let Chosen {
            pages,
            passed_over,
            memory,
            pool,
        } = wanted.choose()?;
        let settings = self.settings(memory.len() / FRAME_SIZE)?;
        if !self.json {
            let mut out = anstream::stdout().lock();
            let grown = pool.as_ref().map_or(0, |pool| pool.added);
            text::write_opening(
                &mut out,
                &settings,
                &memory,
                &passed_over,
                grown,
                layout::width(),
            )?;
            out.flush()?;
        }
        let Some(outcome) = run::run(&settings, &memory, &interrupted)? else {
            return Ok(None);
        };
        let guest = (pages, memory.len());
        // The child that shows the kernel's way may need what it took from a pool.
        drop(memory);
        let kernel_default = KernelDefault::of(pages, settings.inject, &outcome);
        drop(pool);
        Ok(Some(Report::new(
            &settings,
            guest,
            passed_over,
            outcome,
            kernel_default,
        )))
    }

    fn settings(&self, frames: u64) -> Result<Settings, DemoError> {
        let processors = available_parallelism().map_or(2, |count| count.get() as u64);
        let threads = self.threads.unwrap_or(processors.clamp(2, 8).min(frames));
        if threads > frames {
            return Err(DemoError::TooManyThreads { threads, frames });
        }
        if self.errors > frames {
            let errors = self.errors;
            return Err(DemoError::TooManyErrors { errors, frames });
        }
        Ok(Settings {
            errors: self.errors,
            seed: self.seed,
            policy: self.policy,
            inject: self.inject,
            threads,
        })
    }

    fn show(&self, report: &Report) -> io::Result<()> {
        if let Some(file) = &self.svg {
            fs::write(file, svg::draw(report)).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", file.display()))
            })?;
        }
        let mut out = anstream::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, report)?;
            writeln!(out)?;
        } else {
            text::write_result(&mut out, report, layout::width())?;
        }
        out.flush()
    }
}

/// Says what real errors lack before anything is done for them.
fn check_real_errors() -> Result<(), DemoError> {
    let files = Host::read().files;
    let memory_failure = files.kernel.memory_failure;
    if memory_failure.is_none_or(|found| !found.built_in) {
        let why = "this kernel has no CONFIG_MEMORY_FAILURE";
        return Err(DemoError::NoRealErrors { why });
    }
    if files.process.cap_sys_admin != Some(true) {
        let why = "it takes CAP_SYS_ADMIN";
        return Err(DemoError::NoRealErrors { why });
    }
    Ok(())
}
