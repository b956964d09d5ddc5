//! What is asked is done, and told as the document says.

use pagemend_vmm::api::ClientError;
use pagemend_vmm::{End, Phase};
use serde_json::{Value, json};

use crate::document::METHODS;
use crate::machine::{MIB, Machine};

#[test]
fn a_machine_tells_what_it_is() {
    let machine = Machine::start();
    let pong = machine.ask("GET", "/api/v1/ping", "").body.unwrap();
    assert_eq!(pong["pid"], std::process::id());
    let info = machine.ask("GET", "/api/v1/vm.info", "").body.unwrap();
    assert_eq!(info["phase"], "running");
    assert_eq!(info["vcpus"], 2);
    assert_eq!(
        info["memory"]["ranges"],
        json!([{ "start": 0, "len": 64 * MIB }])
    );
    assert_eq!(info["memory"]["lost_bytes"], 0);
    let ledger = machine
        .ask("GET", "/api/v1/memory.ledger", "")
        .body
        .unwrap();
    assert_eq!(ledger["losses"], json!([]));
}

#[test]
fn a_machine_without_anything_to_heal_says_so() {
    let mut machine = Machine::start();
    let answer = machine.ask("PUT", "/api/v1/memory.heal", "");
    assert_eq!(answer.status, 200);
    let nothing = json!({ "healed": [], "entrusted": [], "failed": [] });
    assert_eq!(answer.body.unwrap(), nothing);
    let info = machine.ask("GET", "/api/v1/vm.info", "").body.unwrap();
    assert_eq!(info["memory"]["heal"], "never");
    assert_eq!(info["memory"]["entrusted_bytes"], 0);
    machine.vm.shut_down();
    machine.end();
}

#[test]
fn a_machine_is_paused_resumed_reset_and_switched_off() {
    let mut machine = Machine::start();
    let put = |machine: &Machine, path: &str| {
        let answer = machine.ask("PUT", path, "");
        assert_eq!(answer.status, 204, "{answer:?}");
    };
    for phase in [Phase::Paused, Phase::Running] {
        // Twice is as good as once.
        for _ in 0..2 {
            match phase {
                Phase::Paused => put(&machine, "/api/v1/vm.pause"),
                _ => put(&machine, "/api/v1/vm.resume"),
            }
            assert_eq!(machine.vm.phase(), phase);
        }
        put(&machine, "/api/v1/vm.reset");
        assert_eq!(machine.vm.phase(), phase);
    }
    put(&machine, "/api/v1/vm.shutdown");
    assert_eq!(machine.end(), End::Off);
    let info = machine.ask("GET", "/api/v1/vm.info", "").body.unwrap();
    assert_eq!(info["phase"], "ended");
    for path in ["/api/v1/vm.pause", "/api/v1/vm.resume", "/api/v1/vm.reset"] {
        let answer = machine.ask("PUT", path, "");
        assert_eq!(answer.status, 409);
        assert_eq!(answer.error(), "the machine has ended");
    }
    // Its events are over too.
    assert_eq!(machine.client().events().unwrap().count(), 0);
}

#[test]
fn events_come_as_they_happen_and_end_with_the_machine() {
    let mut machine = Machine::start();
    let events = machine.client().events().unwrap();
    machine.ask("PUT", "/api/v1/vm.pause", "");
    machine.ask("PUT", "/api/v1/vm.resume", "");
    machine.ask("PUT", "/api/v1/vm.reset", "");
    let wish = r#"{"gpa":16777216,"kind":"ao","method":"emulated"}"#;
    assert_eq!(
        machine.ask("PUT", "/api/v1/memory.inject", wish).status,
        200
    );
    machine.ask("PUT", "/api/v1/vm.shutdown", "");
    machine.end();
    let events: Vec<Value> = events.map(Result::unwrap).collect();
    for event in &events {
        machine.document.check_component("VmEvent", event);
    }
    let happened = |event: &Value| match event["event"].as_str().unwrap() {
        "mender" => event["detail"]["step"].as_str().unwrap().to_owned(),
        name => name.to_uppercase(),
    };
    let happened: Vec<_> = events.iter().map(happened).collect();
    assert_eq!(happened[..4], ["PAUSE", "RESUME", "reset", "RESET"]);
    let told = ["fault", "plan", "MEMORY_FAILURE", "record", "done"];
    assert_eq!(happened[4..9], told);
    assert_eq!(happened.last().unwrap(), "SHUTDOWN");
}

#[test]
fn a_reader_without_chunks_gets_lines_until_the_connection_ends() {
    use std::io::{Read, Write};
    let mut machine = Machine::start();
    let mut stream = machine.connect();
    stream
        .write_all(b"GET /api/v1/events HTTP/1.0\r\n\r\n")
        .unwrap();
    let mut head = vec![0; 12];
    stream.read_exact(&mut head).unwrap();
    machine.vm.shut_down();
    machine.end();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, lines) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_lowercase().contains("chunked"), "{head}");
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "shutdown");
}

#[test]
fn what_is_not_there_is_said_and_which_method_would_have_been_right() {
    let machine = Machine::start();
    for path in [
        "/",
        "/api/v1",
        "/api/v2/ping",
        "/api/v1/ping/",
        "//api/v1/ping",
    ] {
        assert_eq!(machine.ask("GET", path, "").status, 404);
    }
    let right: Vec<_> = pagemend_vmm::api::routes().collect();
    for (allowed, path) in &right {
        for method in METHODS.iter().filter(|method| *method != allowed) {
            let answer = machine.ask(method, path, "");
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow").as_deref(), Some(*allowed));
        }
    }
}

#[test]
fn a_connection_takes_one_request_after_another_even_in_one_piece() {
    let machine = Machine::start();
    let ping = "GET /api/v1/ping?pretty HTTP/1.1\r\nHost: vm\r\n\r\n";
    let last = "GET /api/v1/ping HTTP/1.1\r\nConnection: close\r\n\r\n";
    use std::io::{Read, Write};
    let mut stream = machine.connect();
    stream
        .write_all(format!("{ping}{ping}{last}").as_bytes())
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3);
}

#[test]
fn a_client_is_told_in_the_machines_own_words_why_not() {
    let machine = Machine::start();
    let wish = json!({ "gpa": 1u64 << 60, "kind": "ao", "method": "emulated" });
    let error = machine
        .client()
        .put("/api/v1/memory.inject", &wish)
        .unwrap_err();
    let ClientError::Refused { status, error } = error else {
        panic!("{error}");
    };
    assert_eq!(status, 422);
    assert!(error.contains("no guest memory"), "{error}");
    let nobody = pagemend_vmm::api::Client::new(&machine.path.with_extension("other"));
    let error = nobody.get("/api/v1/ping").unwrap_err();
    assert!(error.to_string().contains("--api"), "{error}");
}
