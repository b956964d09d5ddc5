//! What hosts of every kind are judged to be able to do, and what their owners are told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "each test program uses its part")]
mod hosts;

use pagemend_core::address::PageSize;
use pagemend_linux::abi::{UFFD_FEATURE_MINOR_SHMEM, UFFD_FEATURE_POISON};
use pagemend_linux::probe::{
    Built, Errors, Features, Finding, Host, KernelFaults, Level, Trial, Verdict, Version, findings,
};
use proptest::prelude::*;

use hosts::{REFUSED, capable, incapable};

const DOCUMENT: &str = include_str!("../../../docs/doctor.md");

fn finding(host: &Host, id: &str) -> Finding {
    let found = findings(host).into_iter().find(|finding| finding.id == id);
    found.unwrap_or_else(|| panic!("no finding {id}"))
}

fn built(built_in: bool) -> Option<Built> {
    Some(Built {
        built_in,
        evidence: "/proc/config.gz".to_owned(),
    })
}

fn version(major: u32, minor: u32) -> Option<Version> {
    Some(Version { major, minor })
}

#[test]
fn a_full_host_mends_real_errors_on_every_backing() {
    let verdict = Verdict::of(&capable());
    assert!(verdict.can_mend);
    let backings: Vec<_> = verdict
        .forms
        .iter()
        .map(|form| (form.backing.as_str(), form.errors))
        .collect();
    assert_eq!(
        backings,
        [
            ("hugetlb 2 MiB, shared", Errors::Real),
            ("hugetlb 1 GiB, shared", Errors::Real),
            ("shmem 4 KiB and THP of 2 MiB", Errors::Real),
            ("anonymous 4 KiB and THP of 2 MiB", Errors::Real),
        ]
    );
}

#[test]
fn a_host_without_anything_cannot_mend_and_says_what_is_missing() {
    let host = incapable();
    let verdict = Verdict::of(&host);
    assert!(!verdict.can_mend && verdict.forms.is_empty());
    for id in ["memory.memfd", "userfaultfd.access"] {
        let finding = finding(&host, id);
        assert_eq!(finding.level, Level::Blocks);
        assert!(finding.advice.is_some());
    }
}

#[test]
fn a_kernel_without_memory_failure_mends_emulated_errors_only() {
    let mut host = capable();
    host.files.kernel.memory_failure = built(false);
    let verdict = Verdict::of(&host);
    assert!(verdict.can_mend);
    for form in verdict.forms {
        assert_eq!(form.errors, Errors::Emulated);
        assert_eq!(form.limit, Some("kernel without CONFIG_MEMORY_FAILURE"));
    }
}

#[test]
fn a_kernel_that_panics_at_errors_mends_no_real_one() {
    let mut host = capable();
    host.files.sysctls.memory_failure_recovery = Some(0);
    let forms = Verdict::of(&host).forms;
    assert!(forms.iter().all(|form| form.errors == Errors::Emulated));
    let advice = finding(&host, "kernel.memory_failure_recovery").advice;
    let command = "`echo 1 > /proc/sys/vm/memory_failure_recovery`";
    assert_eq!(advice.as_deref(), Some(command));
}

#[test]
fn without_salvage_real_errors_on_hugetlb_are_out_and_on_shmem_not() {
    let mut host = capable();
    host.files.kernel.version = version(6, 5);
    let errors = |host: &Host| -> Vec<_> {
        let forms = Verdict::of(host).forms;
        forms.into_iter().map(|form| form.errors).collect()
    };
    let expected = [
        Errors::Emulated,
        Errors::Emulated,
        Errors::Real,
        Errors::Real,
    ];
    assert_eq!(errors(&host), expected);

    host.calls.memory.keep_ue_mapped = Trial::Works;
    assert_eq!(errors(&host), [Errors::Real; 4], "nothing to salvage");
}

#[test]
fn each_call_that_every_mend_needs_blocks_alone() {
    let without_memfd = {
        let mut host = capable();
        host.calls.memory.memfd = REFUSED;
        (host, "memory.memfd")
    };
    let without_feature = |feature: u64, id| {
        let mut host = capable();
        let features = host.userfaultfd_features().0 & !feature;
        host.calls.userfaultfd.features = Some(Features(features));
        (host, id)
    };
    for (host, id) in [
        without_memfd,
        without_feature(UFFD_FEATURE_POISON, "userfaultfd.poison"),
        without_feature(UFFD_FEATURE_MINOR_SHMEM, "userfaultfd.minor"),
    ] {
        assert!(!Verdict::of(&host).can_mend, "{id}");
        assert_eq!(finding(&host, id).level, Level::Blocks);
    }
}

#[test]
fn an_empty_pool_offers_no_backing_and_a_command_to_fill_it() {
    let mut host = capable();
    for pool in &mut host.files.hugetlb {
        (pool.total, pool.free, pool.reserved, pool.overcommit) = (0, 0, 0, 0);
    }
    let forms = Verdict::of(&host).forms;
    assert!(
        forms
            .iter()
            .all(|form| !form.backing.starts_with("hugetlb"))
    );
    let advice = finding(&host, "memory.hugetlb").advice;
    let command = "`echo 16 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`";
    assert_eq!(advice.as_deref(), Some(command));
}

#[test]
fn a_1_gib_page_wants_511_spare_pages_of_2_mib() {
    let large = |host: &Host| {
        let findings = findings(host).into_iter();
        let mut pools = findings.filter(|finding| finding.title.contains("1 GiB"));
        pools.next().unwrap()
    };
    let mut host = capable();
    assert_eq!(large(&host).level, Level::Good);

    let small = &mut host.files.hugetlb[0];
    assert_eq!(small.page_size, PageSize::SIZE_2M);
    (small.total, small.free, small.reserved, small.overcommit) = (100, 20, 10, 0);
    let finding = large(&host);
    assert_eq!(finding.level, Level::Limits);
    let command = "`echo 601 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages`";
    assert_eq!(finding.advice.as_deref(), Some(command));
}

#[test]
fn the_way_to_faults_inside_the_kernel_is_named() {
    let mut host = capable();
    assert_eq!(host.kernel_faults(), Some(KernelFaults::Device));
    host.calls.userfaultfd.device = REFUSED;
    host.files.process.cap_sys_ptrace = Some(true);
    assert_eq!(host.kernel_faults(), Some(KernelFaults::Capability));
    host.files.process.cap_sys_ptrace = Some(false);
    assert_eq!(host.kernel_faults(), Some(KernelFaults::Sysctl));
    host.calls.userfaultfd.syscall = REFUSED;
    assert_eq!(host.kernel_faults(), None);
    assert_eq!(
        finding(&host, "userfaultfd.kernel_faults").level,
        Level::Note
    );
    assert!(Verdict::of(&host).can_mend, "marks work all the same");
}

#[test]
fn a_daemon_that_dissolves_huge_pages_is_a_limit_until_it_is_told_not_to() {
    let mut host = capable();
    let finding_before = finding(&host, "firmware.rasdaemon");
    assert_eq!(finding_before.level, Level::Limits);
    assert!(
        finding_before
            .advice
            .unwrap()
            .contains("/etc/sysconfig/rasdaemon")
    );
    host.files.rasdaemon.page_ce_action = Some("account".to_owned());
    assert_eq!(finding(&host, "firmware.rasdaemon").level, Level::Good);
}

#[test]
fn arm64_is_asked_for_aborts_and_x86_for_machine_checks() {
    let mut host = capable();
    let has = |host: &Host, id| findings(host).iter().any(|finding| finding.id == id);
    host.files.kernel.architecture = "x86_64";
    assert!(has(&host, "kvm.mce") && !has(&host, "kvm.arm_sea_to_user"));
    host.files.kernel.architecture = "aarch64";
    assert!(!has(&host, "kvm.mce") && has(&host, "kvm.arm_sea_to_user"));
}

#[test]
fn an_unreadable_file_is_told() {
    let root = hosts::everything();
    hosts::put(root.path(), "proc/sys/vm/max_map_count", "lots");
    let mut host = capable();
    host.files = pagemend_linux::probe::Files::read(root.path());
    let finding = finding(&host, "probe.unreadable");
    assert_eq!(finding.title, "/proc/sys/vm/max_map_count");
    assert!(finding.found.contains("lots"));
}

#[test]
fn a_trial_prints_as_whether_it_works_and_why_not() {
    let json = |trial: Trial| serde_json::to_value(trial).unwrap();
    assert_eq!(
        json(Trial::Works),
        serde_json::json!({"works": true, "error": null})
    );
    assert_eq!(
        json(REFUSED),
        serde_json::json!({"works": false, "error": "call: Operation not permitted (os error 1)"})
    );
}

fn trial() -> impl Strategy<Value = Trial> {
    prop_oneof![Just(Trial::Works), Just(REFUSED)]
}

prop_compose! {
    fn hosts()(
        full: bool,
        trials in proptest::array::uniform6(trial()),
        features in proptest::option::of(any::<u64>()),
        memory_failure in proptest::option::of(any::<bool>()),
        recovery in proptest::option::of(0..2u32),
        minor in 0..20u32,
        architecture in prop_oneof![Just("x86_64"), Just("aarch64")],
    ) -> Host {
        let mut host = if full { capable() } else { incapable() };
        host.files.kernel.memory_failure = memory_failure.and_then(built);
        host.files.kernel.version = version(6, minor);
        host.files.kernel.architecture = architecture;
        host.files.sysctls.memory_failure_recovery = recovery;
        let calls = &mut host.calls;
        [
            calls.memory.memfd,
            calls.memory.memfd_hugetlb,
            calls.memory.keep_ue_mapped,
            calls.userfaultfd.device,
            calls.userfaultfd.syscall,
            calls.userfaultfd.syscall_user_mode,
        ] = trials;
        calls.userfaultfd.features = features.map(Features);
        host
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn findings_and_verdict_agree_on_every_host(host in hosts()) {
        let findings = findings(&host);
        let verdict = Verdict::of(&host);
        let blocked = findings.iter().any(|finding| finding.level == Level::Blocks);
        prop_assert_eq!(verdict.can_mend, !blocked);
        prop_assert_eq!(verdict.can_mend, !verdict.forms.is_empty());
        for form in &verdict.forms {
            prop_assert_eq!(form.errors == Errors::Real, form.limit.is_none());
        }
        for finding in &findings {
            prop_assert!(!finding.found.is_empty() && !finding.means.is_empty(), "{:?}", finding);
            if finding.level == Level::Blocks {
                prop_assert!(finding.advice.is_some(), "{:?}", finding);
            }
            let row = format!("| `{}` |", finding.id);
            prop_assert!(DOCUMENT.contains(&row), "not documented: {:?}", finding);
        }
    }
}
