//! Every benchmark with little to do: is the JSON what the document says, and can it be true? How
//! fast anything is cannot be tested here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pagemend::PageSize;
use pagemend::probe::Pool;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/bench.md");
const MIB: u64 = 1 << 20;

/// The pools are the machine's, and what one run takes another lacks.
static POOLS: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bench(arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemend"));
    command.arg("bench").args(arguments.split_whitespace());
    command
}

/// What was measured, which has to be as documented.
fn measured(arguments: &str) -> Value {
    let output = bench(arguments).arg("--json").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments}: {text}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = arguments.split(' ').next().unwrap();
    assert_eq!(report["schema"], format!("pagemend.bench.{name}/1"));
    let section = |title: &str| {
        let (_, section) = DOCUMENT.split_once(&format!("\n## {title}\n")).unwrap();
        section.split("\n## ").next().unwrap()
    };
    // The table of what all forms have goes on with that of the form.
    let (_, rows) = section(name).split_once("|---|---|---|\n").unwrap();
    let all = section("What every JSON form has").trim_end();
    let (common, _) = all.rsplit_once("|\n\n").unwrap();
    common::check_documented(&format!("{common}|\n{rows}"), &report);
    report
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// Percentiles in order, and some time at all.
fn plausible(times: &Value) {
    let [p50, p99, max] = ["p50_us", "p99_us", "max_us"].map(|field| number(&times[field]));
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{times}");
}

fn quartiles(ratio: &Value) {
    let [low, median, high] = ["low", "median", "high"].map(|field| number(&ratio[field]));
    assert!(0.0 < low && low <= median && median <= high, "{ratio}");
}

fn of<'a>(report: &'a Value, field: &str, value: &str) -> Vec<&'a Value> {
    let cases = report["cases"].as_array().unwrap().iter();
    cases.filter(|case| case[field] == value).collect()
}

/// What the pool of 2 MiB pages says, if there is one.
fn huge_pages(file: &str) -> Option<u64> {
    let directory = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    let count = fs::read_to_string(format!("{directory}/{file}")).ok()?;
    count.trim().parse().ok()
}

/// Whether so many MiB of huge pages can be had: then a test that needs them must not pass without.
fn has_huge_pages(mib: u64) -> bool {
    match huge_pages("free_hugepages") {
        Some(free) => free >= mib / 2 || rustix::process::geteuid().is_root(),
        None => false,
    }
}

fn has_kvm() -> bool {
    fs::File::open("/dev/kvm").is_ok()
}

fn refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for word in words {
        assert!(text.contains(word), "no '{word}' in: {text}");
    }
}

#[test]
fn a_blackout_is_measured_for_each_method_next_to_a_copy_and_to_guests_without_an_error() {
    if !has_huge_pages(64) || !has_kvm() {
        return;
    }
    let _alone = alone();
    let report = measured("blackout --page-size 2M --samples 3 --at-once 40");
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    assert!(number(&report["memcpy_2m_us"]) > 0.0);
    for case in cases {
        assert_eq!(case["page_size"], 2 * MIB);
        assert_eq!(case["samples"], 3);
        plausible(&case["touched"]);
        plausible(&case["bystander"]);
        // A page has to be copied, whoever does it.
        assert!(number(&case["touched"]["p50_us"]) > 10.0);
    }
    for method in ["on-demand", "eager"] {
        let mended = of(&report, "method", method)[0];
        plausible(&mended["told"]);
        plausible(&mended["completed"]);
        assert_eq!(mended["split"], Value::Null);
        consists_of_its_parts(mended);
        // It comes back at once.
        assert_eq!(mended["stream"], Value::Null);
        // Each failed page is small pages around its lost frame, and nothing of it is gone.
        let after = mended["pages_after"].as_array().unwrap().iter();
        let bytes: u64 = after.map(|piece| piece["bytes"].as_u64().unwrap()).sum();
        assert_eq!(bytes, 3 * 2 * MIB);
    }
    let rfc = of(&report, "method", "rfc")[0];
    assert_eq!(rfc["told"], Value::Null);
    assert_eq!(rfc["waits"].as_array().unwrap().len(), 0);
    assert_eq!(number(&rfc["touched_ratio_to_rfc"]), 1.0);
    plausible(&rfc["split"]);
    match report["many"].as_array().unwrap().as_slice() {
        [many] => {
            assert_eq!([&many["errors"], &many["lost_frames"]], [40, 40]);
            plausible(&many["touched"]);
            plausible(&many["device"]);
            assert!(number(&many["longest_ratio_to_single_p99"]) > 0.0);
        }
        none => {
            assert!(none.is_empty());
            let why = report["skipped"][0]["why"].as_str().unwrap();
            assert!(why.contains("40 errors at once"), "{why}");
        }
    }
    // Everybody stands while the page is copied, who touches it and who does not.
    for waited in ["touched", "bystander"] {
        let max = number(&rfc[waited]["max_us"]);
        assert!(max >= number(&rfc["split"]["max_us"]), "{waited}: {rfc}");
    }
    let [baseline, copying] = report["baseline"].as_array().unwrap().as_slice() else {
        panic!("{}", report["baseline"]);
    };
    assert_eq!([&baseline["copying"], &copying["copying"]], [false, true]);
    for base in [baseline, copying] {
        plausible(&base["touched"]);
        plausible(&base["bystander"]);
    }
    let healthy = number(&baseline["touched"]["p50_us"]);
    assert!(
        cases
            .iter()
            .all(|case| healthy < number(&case["touched"]["p50_us"]))
    );
}

/// The parts of the wait at a percentile are all of it.
fn consists_of_its_parts(case: &Value) {
    let waits = case["waits"].as_array().unwrap();
    for (wait, percentile) in waits.iter().zip(["p50_us", "p99_us"]) {
        let parts = [
            "signals", "telling", "cover", "memory", "reading", "placing",
        ];
        let parts = parts.map(|part| number(&wait[format!("{part}_us")]));
        assert!(parts.iter().all(|micros| *micros >= 0.0), "{wait}");
        let [whole, waited] = [parts.iter().sum(), number(&case["touched"][percentile])];
        assert!((whole - waited).abs() < 0.01 * waited, "{whole}: {case}");
    }
    assert_eq!(waits.len(), 2);
}

#[test]
fn a_page_that_comes_back_in_the_background_is_measured_to_its_end() {
    let free = |size| Pool::of(size).map_or(0, |pool| pool.spare());
    if free(PageSize::SIZE_1G) < 2 || free(PageSize::SIZE_2M) < 700 || !has_kvm() {
        return;
    }
    let _alone = alone();
    let arguments = "blackout --page-size 1G --samples 1 --at-once 0 --method on-demand";
    let report = measured(arguments);
    let case = &report["cases"][0];
    consists_of_its_parts(case);
    assert_eq!(case["mended_from_pool"], true);
    let stream = ["memory", "reading", "placing", "other"];
    let stream = stream.map(|part| number(&case["stream"][format!("{part}_us")]));
    // One stretch was touched first, and one may have been touched for the guest to be told.
    let background: f64 = stream.iter().sum::<f64>() * 510.0;
    let completed = number(&case["completed"]["p50_us"]);
    assert!(background < completed && completed > number(&case["touched"]["p50_us"]));
    assert!(
        stream[0] > 0.0 && stream[1] > 0.0 && stream[2] > 0.0,
        "{case}"
    );
}

#[test]
fn memcycler_measures_every_policy_at_every_fraction_next_to_healthy_memory() {
    if !has_huge_pages(200) {
        return;
    }
    let _alone = alone();
    for pattern in ["", "--stride 4160", "--random"] {
        let report = measured(&format!(
            "memcycler --page-size 2M --memory 32M --hit 5,25 --rounds 2 --turn 5 {pattern}"
        ));
        let cases = report["cases"].as_array().unwrap();
        let found: Vec<_> = cases
            .iter()
            .map(|case| {
                (
                    case["policy"].as_str().unwrap(),
                    case["hit_pages"].as_u64().unwrap(),
                )
            })
            .collect();
        let policies = ["split", "mend", "mend+heal"];
        let hit = |pages| policies.map(|policy| (policy, pages)).to_vec();
        let healthy = vec![("healthy", 0), ("healthy-again", 0), ("watched", 0)];
        assert_eq!(found, [healthy, hit(1), hit(4)].concat());
        for case in cases {
            quartiles(&case["ratio"]);
            quartiles(&case["reads_ratio"]);
            quartiles(&case["writes_ratio"]);
            assert_eq!(case["words_per_us_by_round"].as_array().unwrap().len(), 2);
            let pages = case["pages"].as_array().unwrap().iter();
            let bytes: u64 = pages.map(|piece| piece["bytes"].as_u64().unwrap()).sum();
            assert_eq!(bytes, 32 * MIB);
        }
        assert_eq!(number(&cases[0]["ratio_to_healthy"]), 1.0);
        assert_eq!(number(&cases[6]["hit_fraction"]), 0.25);
        let healed = of(&report, "policy", "mend+heal")[1];
        let pages = healed["pages"].as_array().unwrap();
        assert_eq!(pages.len(), 1, "all of it is huge pages: {healed}");
        let split = of(&report, "policy", "split")[1];
        assert_eq!(split["pages"][1]["bytes"], 8 * MIB);
    }
}

#[test]
fn memcycler_measures_inside_a_guest() {
    if !has_huge_pages(100) || !has_kvm() {
        return;
    }
    let _alone = alone();
    let report = measured(
        "memcycler --guest --page-size 2M --memory 32M --hit 25 --rounds 1 --turn 5 --threads 2",
    );
    assert_eq!(report["place"], "guest");
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let pages = case["pages"].as_array().unwrap().iter();
        let bytes: u64 = pages.map(|piece| piece["bytes"].as_u64().unwrap()).sum();
        assert_eq!(bytes, 32 * MIB, "{case}");
        for rate in ["words_per_us", "reads_per_us", "writes_per_us"] {
            assert!(number(&case[rate]) > 0.0, "{case}");
        }
    }
}

#[test]
fn salvage_measures_every_read_size_that_fits_the_page() {
    if !has_huge_pages(2) {
        return;
    }
    let _alone = alone();
    let report = measured("salvage --rounds 3");
    let cases = report["cases"].as_array().unwrap();
    let sizes: Vec<_> = cases
        .iter()
        .map(|case| case["read_bytes"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [4 << 10, 64 << 10, 512 << 10, 2 << 20]);
    for case in cases {
        quartiles(&case["ratio_to_memcpy"]);
        assert!(number(&case["bytes_per_second"]) > 0.0);
    }
}

#[test]
fn the_ledger_is_measured_next_to_a_set_that_gives_the_same_answers() {
    let report = measured("ledger --lost 1000 --rounds 2");
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        quartiles(&case["ratio_to_btree_set"]);
        assert!(number(&case["ledger_ns"]) > 0.0 && number(&case["btree_set_ns"]) > 0.0);
    }
    assert!(report["ledger_bytes"].as_u64().unwrap() >= 1000);
}

#[test]
fn guarded_access_is_measured_next_to_a_plain_copy() {
    let report = measured("guard --rounds 3");
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        quartiles(&case["ratio_to_memcpy"]);
    }
    // 32768 times as many bytes take longer, whatever the machine does.
    let reads = of(&report, "access", "read");
    assert!(number(&reads[4]["guarded_ns"]) > number(&reads[0]["guarded_ns"]));
}

#[test]
fn a_table_a_picture_and_a_file_say_the_same_as_the_json() {
    let directory = tempfile::tempdir().unwrap();
    let [picture, saved] = ["guard.svg", "guard.json"].map(|name| directory.path().join(name));
    let output = bench("guard --rounds 1")
        .arg("--save")
        .arg(&saved)
        .arg("--svg")
        .arg(&picture)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let drawn = fs::read_to_string(picture).unwrap();
    let saved: Value = serde_json::from_slice(&fs::read(saved).unwrap()).unwrap();
    assert_eq!(saved["schema"], "pagemend.bench.guard/1");
    assert_eq!(saved["rounds"], 1);
    for size in ["64 bytes", "512 bytes", "4 KiB", "64 KiB", "2 MiB"] {
        assert!(text.contains(size), "{text}");
        assert!(drawn.contains(&format!("read of {size}")), "{drawn}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_what_to_do() {
    for (arguments, words) in [
        (
            "memcycler --page-size 2M --memory 1000T",
            &["--memory", "machine has"][..],
        ),
        (
            "memcycler --page-size 2M --memory 3M",
            &["--memory", "whole pages"],
        ),
        (
            "memcycler --page-size 2M --memory 2M --threads 8",
            &["--threads"],
        ),
        ("memcycler --stride 12", &["--stride", "8 bytes"]),
        (
            "memcycler --guest --page-size 2M --memory 4G",
            &["--memory", "2 GiB"],
        ),
        ("memcycler --guest --random", &["--random"]),
        ("blackout --method rescue", &["rescue", "eager"]),
    ] {
        refused(&bench(arguments).output().unwrap(), words);
    }
}

#[test]
fn an_interrupted_benchmark_gives_the_pool_back() {
    if !has_huge_pages(512) {
        return;
    }
    let _alone = alone();
    let before = huge_pages("nr_hugepages");
    // Four cases: a little more than is free, so that the pool has to grow, and long enough to be
    // interrupted.
    let mib = huge_pages("free_hugepages").unwrap_or(0) / 4 * 2 + 64;
    let mut child = bench(&format!(
        "memcycler --page-size 2M --memory {mib}M --hit 1 --turn 60000 --json"
    ))
    .stdout(std::process::Stdio::piped())
    .stderr(std::process::Stdio::piped())
    .spawn()
    .unwrap();
    while huge_pages("nr_hugepages") == before {
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        std::thread::yield_now();
    }
    let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(huge_pages("nr_hugepages"), before);
}
