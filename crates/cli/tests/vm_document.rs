//! docs/vmm.md: its session is what happens, and its tables are complete.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

const DOCUMENT: &str = include_str!("../../../docs/vmm.md");

/// Commands with what they print.
fn session() -> Vec<(&'static str, String)> {
    let (_, text) = DOCUMENT.split_once("```console\n").unwrap();
    let (text, _) = text.split_once("```").unwrap();
    let mut steps: Vec<(&str, String)> = vec![];
    for line in text.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push((command, String::new())),
            None => steps.last_mut().unwrap().1.push_str(line),
        }
    }
    steps
}

/// Without line ends, and every time as the same: it is the one thing that differs.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    let times = ["in ", "\"time_ms\":", "\"time\":"];
    for line in text.lines() {
        let mut rest = line;
        while let Some((at, word)) = times
            .iter()
            .filter_map(|word| Some((rest.find(word)?, word)))
            .min()
        {
            let (before, after) = rest.split_at(at + word.len());
            let after_digits = after.trim_start_matches(|c: char| c.is_ascii_digit());
            shape.push_str(before);
            shape.push('N');
            rest = after_digits;
        }
        shape.push_str(rest);
    }
    shape
}

#[test]
fn the_session_prints_what_the_document_says() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: there is no curl");
        return;
    }
    const MARK: &str = "----";
    let steps = session();
    let script: String = steps
        .iter()
        .map(|(command, _)| format!("echo; echo {MARK}\n{command}\n"))
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_pagemend")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .args(["-e", "-c", &script])
        .env("PATH", format!("{}:{path}", program.display()))
        .current_dir(&directory)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<_> = text.split(&format!("\n{MARK}\n")).skip(1).collect();
    assert_eq!(printed.len(), steps.len(), "{text}");
    for ((command, expected), printed) in steps.iter().zip(printed) {
        assert_eq!(shape(printed), shape(expected), "{command}");
    }
}

#[test]
fn every_path_and_every_event_is_in_it() {
    for (method, path) in pagemend_vmm::api::routes() {
        let name = path.strip_prefix("/api/v1/").unwrap();
        let named = |line: &str| line.contains(&format!("`{method} ")) && line.contains(name);
        assert!(DOCUMENT.lines().any(named), "{method} {path}");
    }
    for schema in ["pagemend.vm-event/1", "pagemend.run/1", "pagemend.inject/1"] {
        assert!(DOCUMENT.contains(&format!("`{schema}`")), "{schema}");
    }
    let openapi = include_str!("../../vmm/openapi.yaml");
    let (_, events) = openapi.split_once("[mender,").unwrap();
    let (events, _) = events.split_once(']').unwrap();
    for event in events.split(',').map(str::trim) {
        assert!(DOCUMENT.contains(&format!("| `{event}` |")), "{event}");
    }
}

#[test]
fn it_names_every_call_that_the_mender_s_thread_may_make() {
    let rules = include_str!("../../vmm/src/seccomp/rules.rs");
    let list = |name: &str| {
        let (_, list) = rules.split_once(&format!("const {name}: ")).unwrap();
        let (list, _) = list.split_once("];").unwrap();
        list.split("libc::SYS_").skip(1)
    };
    let end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let mut allowed: BTreeSet<_> = ["EVERY", "MENDER"]
        .into_iter()
        .flat_map(list)
        .map(|call| call.split(end).next().unwrap())
        .collect();
    // Of these the list has the letter alone.
    allowed.insert("ioctl");

    let rows = ["| any, for", "| any that may touch", "| `pagemend`, "];
    let named: BTreeSet<_> = rows
        .into_iter()
        .map(|row| DOCUMENT.lines().find(|line| line.starts_with(row)).unwrap())
        .map(|row| row.split('|').nth(2).unwrap())
        .flat_map(|calls| calls.split('`').skip(1).step_by(2))
        .collect();
    assert_eq!(named, allowed);
}
