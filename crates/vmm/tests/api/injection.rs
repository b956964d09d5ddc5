//! `memory.inject`, and what becomes of the frames.

use pagemend::{FRAME_SIZE, Gpa, GuardError};
use serde_json::{Value, json};

use crate::machine::{Answer, MIB, Machine};

const INJECT: &str = "/api/v1/memory.inject";

fn inject(machine: &Machine, wish: Value) -> Answer {
    machine.ask("PUT", INJECT, &wish.to_string())
}

#[test]
fn an_error_that_somebody_touches_is_lost_when_it_is_touched() {
    let machine = Machine::start();
    let gpa = 32 * MIB + 5 * FRAME_SIZE;
    let answer = inject(
        &machine,
        json!({ "gpa": gpa + 8, "kind": "ar", "method": "emulated" }),
    );
    let body = answer.body.unwrap();
    assert_eq!(body["gpa"], gpa);
    assert_eq!(body["page"], json!({ "start": gpa, "len": FRAME_SIZE }));
    assert!(body["seed"].is_null());
    assert!(!machine.vm.pagemend().is_lost(Gpa::new(gpa)));
    let read = machine.vm.ram().read(Gpa::new(gpa), &mut [0; 8]);
    assert!(matches!(read, Err(GuardError::Poisoned { .. })), "{read:?}");
    let ledger = machine
        .ask("GET", "/api/v1/memory.ledger", "")
        .body
        .unwrap();
    assert_eq!(ledger["losses"][0]["gpa"], gpa);
    assert_eq!(ledger["losses"][0]["cause"], "action-required");
}

#[test]
fn an_error_that_nobody_touches_is_lost_when_it_is_answered() {
    let machine = Machine::start();
    let wish = json!({ "gpa": 32 * MIB, "kind": "ao", "method": "emulated" });
    assert_eq!(inject(&machine, wish.clone()).status, 200);
    let info = machine.ask("GET", "/api/v1/vm.info", "").body.unwrap();
    assert_eq!(info["memory"]["lost_bytes"], FRAME_SIZE);
    assert_eq!(info["totals"]["recorded"], 1);
    // It cannot be lost twice.
    assert_eq!(inject(&machine, wish).status, 409);
}

#[test]
fn a_page_that_is_mended_on_demand_is_seen_coming_back() {
    let Some(machine) = Machine::start_on_a_gigantic_page() else {
        println!("skipped: there is no page of 1 GiB");
        return;
    };
    let page = json!({ "start": 0, "len": 1024 * MIB });
    let wish = json!({ "gpa": 700 * MIB, "kind": "ar", "method": "emulated" });
    assert_eq!(inject(&machine, wish).status, 200);
    let coming_back = || {
        let info = machine.ask("GET", "/api/v1/vm.info", "").body.unwrap();
        assert_eq!(info["memory"]["filling"], "on-demand");
        info["memory"]["coming_back"].as_array().unwrap().clone()
    };
    assert_eq!(coming_back(), [] as [Value; 0]);
    machine
        .vm
        .ram()
        .read(Gpa::new(300 * MIB), &mut [0; 8])
        .unwrap();
    let mut seen = vec![];
    while let [now] = &coming_back()[..] {
        assert_eq!(now["page"], page);
        seen.push(now["left_bytes"].as_u64().unwrap());
    }
    assert!(!seen.is_empty() && seen[0] < 1024 * MIB, "{seen:?}");
    assert!(
        seen.is_sorted_by(|before, after| before >= after),
        "{seen:?}"
    );
    assert_eq!(machine.vm.pagemend().totals().mended, 1);
}

#[test]
fn a_random_frame_is_named_with_the_seed_that_gives_it_again() {
    let frame = |seed: Option<&Value>| {
        let machine = Machine::start();
        let mut wish = json!({ "kind": "ao", "method": "emulated" });
        if let Some(seed) = seed {
            wish["seed"] = seed.clone();
        }
        let body = inject(&machine, wish).body.unwrap();
        (body["gpa"].clone(), body["seed"].clone())
    };
    let (gpa, seed) = frame(None);
    assert_eq!(frame(Some(&seed)), (gpa, seed));
}

#[test]
fn a_wish_that_cannot_be_is_refused_for_its_reason() {
    let machine = Machine::start();
    for (wish, status, word) in [
        (json!({}), 400, "kind"),
        (json!({ "kind": "ao", "method": "hammer" }), 400, "hammer"),
        (json!({ "kind": "ce", "method": "emulated" }), 400, "ce"),
        (
            json!({ "kind": "ao", "method": "emulated", "gap": 1 }),
            400,
            "gap",
        ),
        (
            json!({ "kind": "ao", "method": "emulated", "gpa": -1 }),
            400,
            "-1",
        ),
        (
            json!({ "kind": "ao", "method": "emulated", "gpa": 64 * MIB }),
            422,
            "no guest memory",
        ),
        (
            json!({ "kind": "ao", "method": "emulated", "gpa": u64::MAX }),
            422,
            "no guest memory",
        ),
        (
            json!({ "kind": "ao", "method": "emulated", "gpa": 1, "seed": 1 }),
            422,
            "seed",
        ),
        (
            json!({ "kind": "ar", "method": "corrupt-pfn" }),
            422,
            "told early",
        ),
        (json!([]), 400, "length"),
    ] {
        let answer = inject(&machine, wish.clone());
        assert_eq!(answer.status, status, "{wish}: {answer:?}");
        assert!(answer.error().contains(word), "{wish}: {answer:?}");
    }
    let not_json = machine.ask("PUT", INJECT, "\u{0}{");
    assert_eq!(not_json.status, 400);
    assert_eq!(machine.vm.pagemend().totals().faults, 0);
}

#[test]
fn a_method_that_this_host_lacks_says_what_to_do() {
    if std::path::Path::new("/proc/sys/vm/memory_failure_early_kill").exists() {
        // It would take memory out of the machine's use.
        eprintln!("skipped: this kernel has memory failures");
        return;
    }
    let machine = Machine::start();
    for wish in [
        json!({ "kind": "ar", "method": "madvise" }),
        json!({ "kind": "ao", "method": "corrupt-pfn" }),
    ] {
        let answer = inject(&machine, wish);
        assert_eq!(answer.status, 501, "{answer:?}");
        assert!(answer.error().contains("use emulated errors"), "{answer:?}");
    }
    machine.is_well();
}
