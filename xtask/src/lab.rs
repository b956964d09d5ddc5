//! `cargo xtask lab`: real memory failures on real kernels.

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use pagemend_lab_host::{
    Accelerator, Arch, Inside, Options, Program, Report, Verdict, attach, differences, failed,
    list, listing, self_test, summary, write_json, write_junit, write_outcomes, write_tables,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What makes a whole document each, by name.
const TABLES: [&str; 3] = ["kernel/*", "mechanism/*", "vm-*"];

/// Arguments of `cargo xtask lab`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    task: Option<Task>,
    /// Scenarios by name or wildcard, such as 'kernel/*'; none means the default set
    names: Vec<String>,
    /// Show the scenarios and what each proves, and run nothing
    #[arg(long)]
    list: bool,
    /// Run the scenarios outside the default set as well
    #[arg(long)]
    all: bool,
    /// Kernel: a version (downloaded from Debian), or the path of an image, a package, or a directory with boot/ and lib/modules/; may be given more than once
    #[arg(long, value_name = "VERSION|PATH", default_value = "6.12")]
    kernel: Vec<String>,
    /// Architecture of the machines
    #[arg(long, value_enum, default_value_t = ArchName::X86_64)]
    arch: ArchName,
    /// Memory that a machine may have, in MiB; more means fewer boots
    #[arg(long, value_name = "MIB", default_value_t = 6144)]
    memory: u32,
    /// How the machines' processors are made; auto is tcg, which is the same everywhere
    #[arg(long, value_enum, default_value_t = AcceleratorName::Auto)]
    accel: AcceleratorName,
    /// Machines side by side, if they fit into free memory; one for each two processors unless said, or for each one where guests run inside
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// Keep the console log and QEMU's messages of each boot
    #[arg(long)]
    keep: bool,
    /// Write the results as a JSON list
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write docs/kernel-behaviour-VERSION.md, which takes 'kernel/*' and 'mechanism/*', or docs/vm-outcomes.md and the README's table, which take 'vm-*'
    #[arg(long)]
    table: bool,
    /// Test the lab itself: scenarios that are wrong must fail, each for its reason
    #[arg(long, conflicts_with_all = ["names", "list", "all", "table"])]
    self_test: bool,
}

#[derive(Subcommand)]
enum Task {
    /// A guest under `pagemend run` in the lab's machine, with its console on this terminal
    Vm {
        /// Kernel of both machines: a version or a path, as for scenarios
        #[arg(long, value_name = "VERSION|PATH", default_value = "6.12")]
        kernel: String,
        /// More arguments to `pagemend run`, such as --vcpus 4 or --page-size 1G --memory 1G
        #[arg(last = true, value_name = "RUN ARGUMENTS")]
        arguments: Vec<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum ArchName {
    #[value(name = "x86_64")]
    X86_64,
}

#[derive(Clone, Copy, ValueEnum)]
enum AcceleratorName {
    Auto,
    Tcg,
    Kvm,
}

/// Runs the lab. Anything but a success means that a scenario failed.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let workspace = workspace()?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.join("target"), PathBuf::from);
    let options = Options {
        names: arguments.names,
        all: arguments.all,
        kernels: arguments.kernel,
        arch: match arguments.arch {
            ArchName::X86_64 => Arch::X86_64,
        },
        memory: arguments.memory,
        accelerator: match arguments.accel {
            AcceleratorName::Auto | AcceleratorName::Tcg => Accelerator::Tcg,
            AcceleratorName::Kvm => Accelerator::Kvm,
        },
        jobs: arguments.jobs,
        keep: arguments.keep,
        program: "pagemend-lab-guest".into(),
        inside: Inside {
            vmm: program("pagemend-cli", "pagemend"),
            guest: program("pagemend-lab-walker", "pagemend-lab-walker"),
        },
        cache: target.join("lab"),
        workspace: workspace.clone(),
    };
    if let Some(Task::Vm { kernel, arguments }) = arguments.task {
        let kernels = vec![kernel];
        attach(&Options { kernels, ..options }, &arguments)?;
        return Ok(ExitCode::SUCCESS);
    }
    let is_whole = |name: &String| TABLES.contains(&name.as_str());
    if arguments.table && !options.names.iter().all(is_whole) {
        bail!("--table wants whole runs: of everything, or of {TABLES:?}");
    }
    if arguments.list {
        println!("{}", listing(&options)?);
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.self_test {
        self_test(&options)?;
        println!("the lab notices everything that it should");
        return Ok(ExitCode::SUCCESS);
    }
    // What a run before left behind is not taken for this one's, whatever becomes of it.
    for path in arguments.json.iter().chain(&arguments.junit) {
        remove(path)?;
    }
    let reports = pagemend_lab_host::run(&options)?;
    if let Some(path) = &arguments.json {
        write_json(path, &reports)?;
    }
    if let Some(path) = &arguments.junit {
        write_junit(path, &reports)?;
    }
    println!("{}", summary(&reports));
    let docs = workspace.join("docs");
    let scenarios = list(&Options {
        names: Vec::new(),
        ..options.clone()
    })?;
    let mut news = Vec::new();
    if arguments.table {
        let kernels = write_tables(&docs, &scenarios, &reports)?;
        let machines = write_outcomes(&workspace, &scenarios, &reports)?;
        for path in kernels.into_iter().chain(machines) {
            println!("wrote {}", path.display());
        }
    } else if !options
        .kernels
        .iter()
        .any(|kernel| Path::new(kernel).exists())
    {
        // The documents are about distributions' kernels; one's own may differ.
        news = differences(&docs, &scenarios, &reports)?;
    }
    for new in &news {
        println!("FAIL  {new}");
    }
    Ok(
        match failed(&reports) || nothing_passed(&reports) || !news.is_empty() {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        },
    )
}

/// Removes a file, and nothing else that has a name, such as a pipe.
fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => {
            fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A run in which everything was skipped has shown nothing.
fn nothing_passed(reports: &[Report]) -> bool {
    !reports.iter().any(|report| report.verdict == Verdict::Pass)
}

fn program(package: &str, binary: &str) -> Program {
    Program {
        package: package.into(),
        binary: binary.into(),
    }
}

fn workspace() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .context("xtask is not inside the workspace")
}
