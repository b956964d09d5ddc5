//! The real program on this machine: does it tell the truth, in the form that is documented?

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::process::{Command, Output};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::thread::{CapabilitySet, capabilities};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/doctor.md");

fn doctor() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemend"));
    command.arg("doctor");
    command
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn finding<'a>(report: &'a Value, id: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["id"] == id);
    found.unwrap_or_else(|| panic!("no finding {id}"))
}

#[test]
fn facts_agree_with_independent_readings() {
    let report = report(&doctor().arg("--json").output().unwrap());
    let facts = &report["facts"];

    let release = rustix::system::uname();
    assert_eq!(
        facts["kernel"]["release"],
        release.release().to_str().unwrap()
    );
    assert_eq!(
        facts["kernel"]["memory_failure"]["built_in"],
        fs::exists("/proc/sys/vm/memory_failure_early_kill").unwrap()
    );
    let effective = capabilities(None).unwrap().effective;
    assert_eq!(
        facts["process"]["cap_sys_admin"],
        effective.contains(CapabilitySet::SYS_ADMIN)
    );
    assert_eq!(
        facts["memory"]["memfd"]["works"],
        memfd_create("test", MemfdFlags::CLOEXEC).is_ok()
    );
    for (path, trial) in [
        ("/dev/kvm", &facts["kvm"]["open"]),
        ("/dev/userfaultfd", &facts["userfaultfd"]["device"]),
    ] {
        let opens = File::options().read(true).write(true).open(path).is_ok();
        assert_eq!(trial["works"], opens, "{path}");
    }
    let sizes = fs::read_dir("/sys/kernel/mm/hugepages").map_or(0, Iterator::count);
    assert_eq!(facts["hugetlb"].as_array().unwrap().len(), sizes);
    assert_eq!(facts["unreadable"], Value::Array(Vec::new()));
}

#[test]
fn the_pools_are_those_of_meminfo() {
    let meminfo = || {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some((
            field("Hugepagesize:")? << 10,
            field("HugePages_Total:")?,
            field("HugePages_Free:")?,
        ))
    };
    // Others may use the pools meanwhile: only a reading between two equal ones counts.
    for _ in 0..100 {
        let before = meminfo();
        let report = report(&doctor().arg("--json").output().unwrap());
        if meminfo() != before {
            continue;
        }
        let Some((size, total, free)) = before else {
            return;
        };
        let pools = report["facts"]["hugetlb"].as_array().unwrap();
        let pool = pools.iter().find(|pool| pool["page_size"] == size).unwrap();
        assert_eq!(
            (&pool["total"], &pool["free"]),
            (&total.into(), &free.into())
        );
        return;
    }
    panic!("the pools never rest");
}

#[test]
fn the_exit_code_is_the_verdict() {
    let output = doctor().arg("--json").output().unwrap();
    let report = report(&output);
    let can_mend = report["verdict"]["can_mend"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if can_mend { 0 } else { 1 }));
    assert_eq!(doctor().output().unwrap().status, output.status);
}

#[test]
fn an_unknown_argument_is_a_usage_error() {
    let output = doctor().arg("--fix").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--fix"));
}

#[test]
fn output_that_nobody_takes_is_an_error_of_its_own() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = doctor().stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot be written"));
}

#[test]
fn text_for_a_pipe_has_no_colour_and_fits_80_columns() {
    let output = doctor().output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\x1b'));
    for line in text.lines().filter(|line| !line.contains('`')) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    for heading in [
        "Kernel",
        "Memory",
        "Userfaultfd",
        "Virtualization",
        "Firmware and error daemons",
        "Errors since boot",
    ] {
        assert!(text.lines().any(|line| line == heading), "{heading}");
    }
}

/// Runs doctor where each of these calls, with this second argument if one is given, is refused.
fn under_filter(calls: &[(i64, Option<u64>)]) -> Output {
    let mut command = doctor();
    common::refuse(command.arg("--json"), calls);
    command.output().unwrap()
}

#[test]
fn a_filter_that_forbids_memfds_makes_mending_impossible() {
    let output = under_filter(&[(libc::SYS_memfd_create, None)]);
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    assert_eq!(report["verdict"]["forms"], Value::Array(Vec::new()));
    assert_eq!(report["facts"]["process"]["seccomp"], "filter");
    assert_eq!(finding(&report, "memory.memfd")["level"], "blocks");
}

#[test]
fn a_filter_that_forbids_userfaultfd_by_both_ways_makes_mending_impossible() {
    let output = under_filter(&common::USERFAULTFD);
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    let access = finding(&report, "userfaultfd.access");
    assert_eq!(access["level"], "blocks");
    assert!(access["advice"].as_str().unwrap().contains("seccomp"));
}

#[test]
fn the_json_is_what_the_document_says() {
    let report = report(&doctor().arg("--json").output().unwrap());
    common::check_documented(DOCUMENT, &report);
    assert_eq!(report["schema"], "pagemend.doctor/1");
}
