//! The real program on this machine: is exactly what was made to fail lost, and is everything that
//! cannot be done said clearly?

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/demo.md");

/// The pools are the machine's, and what one run takes another lacks.
static POOLS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn demo(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemend"));
    command.arg("demo").args(arguments.split_whitespace());
    command
}

/// A demonstration that has to prove itself.
fn proven(arguments: &str) -> Value {
    let output = demo(arguments).arg("--json").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments}: {text}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for word in words {
        assert!(text.contains(word), "no '{word}' in: {text}");
    }
}

/// What the pool of 2 MiB pages says, if there is one.
fn huge_pages(file: &str) -> Option<u64> {
    let directory = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let count = fs::read_to_string(format!("{directory}/{file}")).ok()?;
    count.trim().parse().ok()
}

/// Whether 64 MiB of huge pages can be had: then a test that needs them must not pass without.
fn has_huge_pages() -> bool {
    match huge_pages("free_hugepages") {
        Some(free) => free >= 32 || rustix::process::geteuid().is_root(),
        None => false,
    }
}

#[test]
fn on_the_best_memory_there_is_nothing_but_the_injected_frames_is_lost() {
    let _alone = alone();
    let report = proven("");
    assert_eq!(report["schema"], "pagemend.demo/1");
    assert_eq!(report["injected_frames"], 16);
    assert_eq!(report["lost_bytes"], 16 * 4096);
    assert_eq!(report["wrong_values"], 0);
    common::check_documented(DOCUMENT, &report);
}

#[test]
fn a_mend_of_huge_pages_loses_the_injected_frames_and_recovers_the_rest() {
    if !has_huge_pages() {
        return;
    }
    let _alone = alone();
    let report = proven("--page-size 2M --memory 64M --errors 40 --threads 4");
    let hit = report["kernel_default"]["lost_bytes"].as_u64().unwrap();
    let pages = hit >> 21;
    assert_eq!(report["page_size"], 2 << 20);
    assert_eq!(report["lost_bytes"], 40 * 4096);
    assert_eq!(report["lost"].as_array().unwrap().len() as u64, 40);
    assert_eq!(report["mend_micros"]["action"], "mend");
    assert_eq!(report["mend_micros"]["count"], pages);
    let of_mends: u64 = report["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|fault| fault["action"] == "mend")
        .map(|fault| fault["lost_bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(report["recovered_bytes"], hit - of_mends);
    let micros = |field: &str| report["mend_micros"][field].as_f64().unwrap();
    assert!(0.0 < micros("p50") && micros("p50") <= micros("p99"));
    assert!(micros("p99") <= micros("max"));
    common::check_documented(DOCUMENT, &report);
}

#[test]
fn of_small_pages_only_the_frame_is_gone_anyway() {
    let report = proven("--page-size 4k --memory 16M --errors 30");
    assert_eq!(report["lost_bytes"], 30 * 4096);
    assert_eq!(report["kernel_default"]["lost_bytes"], 30 * 4096);
    assert_eq!(report["recovered_bytes"], 0);
    assert_eq!(report["mend_micros"]["action"], "record");
}

#[test]
fn of_transparent_huge_pages_only_the_frame_is_gone_anyway() {
    let output = demo("--page-size thp --memory 16M --errors 30 --json")
        .output()
        .unwrap();
    if output.status.code() == Some(2) {
        return refused(&output, &["no transparent huge pages", "pagemend doctor"]);
    }
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["proven"], true);
    assert_eq!(report["lost_bytes"], 30 * 4096);
    assert_eq!(report["pages"], "thp");
}

#[test]
fn every_frame_can_fail() {
    let report = proven("--page-size 4k --memory 64K --errors 16 --threads 16");
    assert_eq!(report["lost_bytes"], 64 << 10);
}

#[test]
fn without_errors_nothing_is_lost() {
    let report = proven("--page-size 4k --memory 16M --errors 0");
    assert_eq!(report["lost_bytes"], 0);
    assert_eq!(report["mend_micros"], Value::Null);
    common::check_documented(DOCUMENT, &report);
}

#[test]
fn policies_that_lose_whole_pages_lose_exactly_those() {
    if !has_huge_pages() {
        return;
    }
    let _alone = alone();
    for policy in ["discard", "abandon"] {
        let report = proven(&format!("--page-size 2M --memory 64M --policy {policy}"));
        assert_eq!(report["mend_micros"]["action"], policy);
        assert_eq!(report["lost_bytes"], report["kernel_default"]["lost_bytes"]);
        assert!(report["lost_bytes"].as_u64().unwrap() >= 2 << 20);
        assert_eq!(report["recovered_bytes"], 0);
    }
}

#[test]
fn the_same_seed_hits_the_same_frames() {
    let injected = |seed: u32| {
        let report = proven(&format!("--page-size 4k --memory 16M --seed {seed}"));
        report["injected"].clone()
    };
    assert_eq!(injected(7), injected(7));
    assert_ne!(injected(7), injected(8));
}

#[test]
fn text_for_a_pipe_has_no_colour_and_fits_80_columns() {
    let output = demo("--page-size 4k --memory 16M").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'));
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for words in ["Memory map", "Timeline", "Lost of 16 MiB", "Proven"] {
        assert!(text.contains(words), "{words}");
    }
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn the_picture_shows_the_lost_frames_and_the_faults() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("demo.svg");
    let mut command = demo("--page-size 4k --memory 16M --errors 3 --svg");
    assert!(command.arg(&file).output().unwrap().status.success());
    let svg = fs::read_to_string(&file).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    for words in ["3 errors, 12 KiB lost of 16 MiB", "Timeline", "Proven"] {
        assert!(svg.contains(words), "{words}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused_with_what_is_wrong() {
    for (arguments, words) in [
        ("--memory 0", &["--memory", "nothing to lose"][..]),
        ("--memory 64Q", &["--memory", "512M"]),
        ("--page-size 4k --memory 5000", &["multiple of 4 KiB"]),
        ("--page-size 2M --memory 3M", &["multiple of 2 MiB"]),
        ("--page-size 64k", &["--page-size", "2M"]),
        (
            "--page-size 4k --memory 64K --errors 17",
            &["17 errors", "16 frames"],
        ),
        (
            "--page-size 4k --memory 64K --errors 1 --threads 17",
            &["17 threads", "16 frames"],
        ),
        ("--threads 0", &["--threads"]),
        ("--policy repair", &["repair", "discard"]),
        ("--inject cosmic-rays", &["cosmic-rays", "madvise"]),
    ] {
        refused(&demo(arguments).output().unwrap(), words);
    }
}

#[test]
fn more_memory_than_the_machine_has_is_refused_before_anything_is_taken() {
    let _alone = alone();
    for pages in ["", "--page-size 4k", "--page-size 2M", "--page-size 1G"] {
        let output = demo(&format!("--memory 8000T {pages}")).output().unwrap();
        refused(&output, &[]);
    }
}

#[test]
fn a_pool_that_nobody_may_grow_is_named_with_what_to_do() {
    const NOBODY: u32 = 65534;
    let _alone = alone();
    let Some(free) = huge_pages("free_hugepages") else {
        return;
    };
    let mut command = demo("--page-size 2M --errors 1 --memory");
    command.arg(format!("{}M", (free + 1) * 2));
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    match command.output() {
        Ok(output) => refused(&output, &["cannot be grown", "echo", "hugepages-2048kB"]),
        // The program may be where only root can get at it.
        Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
    }
}

#[test]
fn real_errors_are_refused_where_there_are_none() {
    let output = demo("--inject madvise --page-size 4k --memory 64K --errors 1")
        .output()
        .unwrap();
    let possible = fs::exists("/proc/sys/vm/memory_failure_recovery").unwrap()
        && rustix::process::geteuid().is_root();
    if !possible {
        refused(&output, &["--inject madvise", "--inject emulated"]);
    }
}

#[test]
fn without_userfaultfd_it_is_not_held() {
    let mut command = demo("--page-size 4k --memory 16M");
    common::refuse(&mut command, &common::USERFAULTFD);
    refused(&command.output().unwrap(), &["userfaultfd", "seccomp"]);
}

#[test]
fn output_that_cannot_be_written_is_an_error_of_its_own() {
    let output = demo("--page-size 4k --memory 16M --svg /nowhere/demo.svg")
        .output()
        .unwrap();
    refused(&output, &["/nowhere/demo.svg"]);
}

#[test]
fn an_interrupt_ends_it_without_a_proof_and_gives_back_the_pool() {
    let _alone = alone();
    let before = huge_pages("nr_hugepages");
    let mut child = demo("--errors 60000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut opening = String::new();
    stdout.read_line(&mut opening).unwrap();
    assert!(opening.starts_with("Memory"));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert!(!rest.contains("Proven"));
    assert_eq!(huge_pages("nr_hugepages"), before);
}
