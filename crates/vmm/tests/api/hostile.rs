//! Clients that go away, send forever, never read, or mean harm.

use std::cell::Cell;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use pagemend_vmm::api::{MAX_BODY, MAX_CONNECTIONS, MAX_HEAD};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use crate::machine::{Answer, Machine};

const PING: &[u8] = b"GET /api/v1/ping HTTP/1.1\r\n\r\n";

/// Reads to the end what comes.
fn hear(stream: &mut UnixStream) -> Answer {
    let mut bytes = vec![];
    match stream.read_to_end(&mut bytes) {
        // The machine may close while there is more to come from here.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => drop(other.unwrap()),
    }
    Answer::parse(std::str::from_utf8(&bytes).unwrap())
}

#[test]
fn who_sends_a_head_forever_is_told_that_it_is_too_large() {
    let machine = Machine::start();
    let mut stream = machine.connect();
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    // Until the machine has had enough.
    while stream.write_all(b"x-more: and more and more\r\n").is_ok() {}
    assert_eq!(hear(&mut stream).status, 431);
    machine.is_well();
}

#[test]
fn who_sends_a_body_forever_is_told_that_it_is_too_large() {
    let machine = Machine::start();
    let mut stream = machine.connect();
    let len = u64::MAX;
    let head = format!("PUT /api/v1/memory.inject HTTP/1.1\r\nContent-Length: {len}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    while stream.write_all(&[b'x'; 4096]).is_ok() {}
    assert_eq!(hear(&mut stream).status, 413);
    machine.is_well();
}

#[test]
fn who_stops_in_the_middle_is_told_that_it_was_too_slow() {
    let machine = Machine::start();
    // Side by side, because each takes as long as the machine's patience.
    let mut streams = [
        &PING[..10],
        b"PUT /api/v1/vm.pause HTTP/1.1\r\nContent-Length: 9\r\n\r\n1",
    ]
    .map(|start| {
        let mut stream = machine.connect();
        stream.write_all(start).unwrap();
        stream
    });
    for stream in &mut streams {
        assert_eq!(hear(stream).status, 408);
    }
    machine.is_well();
}

#[test]
fn who_goes_away_is_not_missed() {
    let machine = Machine::start();
    for part in [0, 1, 10, PING.len() - 1, PING.len()] {
        // More often than there are places: each is given back.
        for _ in 0..MAX_CONNECTIONS + 1 {
            drop_after(&machine, &PING[..part]);
        }
        drop_after(&machine, b"GET /api/v1/events HTTP/1.1\r\n\r\n");
    }
    wait_until_well(&machine);
}

fn drop_after(machine: &Machine, bytes: &[u8]) {
    let mut stream = machine.connect();
    // Turned away before it was said, it is a broken pipe.
    let _ = stream.write_all(bytes);
}

/// The machine learns of a reader that is gone at the next event or look: until then it has no
/// place for others, and says so.
fn wait_until_well(machine: &Machine) {
    loop {
        let mut stream = machine.connect();
        let _ = stream.write_all(b"GET /api/v1/ping HTTP/1.1\r\nConnection: close\r\n\r\n");
        match hear(&mut stream).status {
            503 => std::thread::yield_now(),
            status => return assert_eq!(status, 200),
        }
    }
}

#[test]
fn who_comes_when_all_places_are_taken_is_turned_away_until_one_is_free() {
    let machine = Machine::start();
    let mut taken: Vec<_> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let mut stream = machine.connect();
            stream.write_all(PING).unwrap();
            // It has its place when it is answered.
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        })
        .collect();
    let answer = hear(&mut machine.connect());
    assert_eq!(answer.status, 503);
    taken.pop();
    wait_until_well(&machine);
}

#[test]
fn who_never_reads_its_events_does_not_hold_up_the_machine() {
    let machine = Machine::start();
    let mut deaf = machine.connect();
    deaf.write_all(b"GET /api/v1/events HTTP/1.1\r\n\r\n")
        .unwrap();
    deaf.read_exact(&mut [0; 12]).unwrap();
    // Far more than a socket and a backlog hold.
    for _ in 0..10_000 {
        machine.vm.pause().unwrap();
        machine.vm.resume().unwrap();
    }
    machine.is_well();
    // It was cut off: its answer breaks off without the last, empty chunk.
    let mut rest = vec![];
    deaf.read_to_end(&mut rest).unwrap();
    assert!(!rest.ends_with(b"0\r\n\r\n"));
}

#[test]
fn leave_to_send_a_body_is_given_where_it_is_asked_for() {
    let machine = Machine::start();
    let mut stream = machine.connect();
    let head = "PUT /api/v1/vm.pause HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\
                Expect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut leave = [0; 25];
    stream.read_exact(&mut leave).unwrap();
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").unwrap();
    assert_eq!(hear(&mut stream).status, 204);
}

/// Some bytes to be changed, or none.
fn changes() -> impl Strategy<Value = Vec<(Index, u8)>> {
    let some = prop::collection::vec((any::<Index>(), any::<u8>()), 1..4);
    prop::option::weighted(0.3, some).prop_map(Option::unwrap_or_default)
}

fn change(bytes: &mut [u8], changes: Vec<(Index, u8)>) {
    for (at, byte) in changes {
        if let len @ 1.. = bytes.len() {
            bytes[at.index(len)] = byte;
        }
    }
}

#[test]
fn no_bytes_end_the_machine() {
    let machine = Machine::start();
    let body = br#"{"gpa":16777216,"kind":"ar","method":"emulated"}"#;
    let inject = format!(
        "PUT /api/v1/memory.inject HTTP/1.1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let ledger = "GET /api/v1/memory.ledger HTTP/1.1\r\nExpect: 100-continue\r\n\r\n";
    let events = "GET /api/v1/events HTTP/1.1\r\nConnection: close\r\n\r\n";
    let valid = prop_oneof![
        3 => Just((inject.into_bytes(), body.to_vec())),
        1 => Just((PING.to_vec(), vec![])),
        1 => Just((ledger.into(), vec![])),
        1 => Just((events.into(), vec![])),
    ];
    // A head is easily spoiled, and then nobody looks at the body.
    let mutated = (
        valid,
        changes(),
        changes(),
        prop::option::weighted(0.2, any::<Index>()),
    )
        .prop_map(|((mut head, mut body), in_head, in_body, cut)| {
            change(&mut head, in_head);
            change(&mut body, in_body);
            let mut bytes = [head, body].concat();
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()) + 1);
            }
            bytes
        });
    let noise = prop::collection::vec(any::<u8>(), 0..MAX_HEAD + MAX_BODY);
    let bytes = prop_oneof![4 => mutated, 1 => noise];
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    };
    // How many were answered with a status of each hundred.
    let answered = [const { Cell::new(0_u32) }; 10];
    TestRunner::new(config)
        .run(&bytes, |bytes| {
            let mut stream = machine.connect();
            // The machine may have had enough before the end.
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut first = [0; 12];
            if stream.read_exact(&mut first).is_ok() {
                prop_assert_eq!(&first[..9], b"HTTP/1.1 ");
                let hundred = &answered[usize::from(first[9] - b'0')];
                hundred.set(hundred.get() + 1);
            }
            Ok(())
        })
        .unwrap();
    // They got as far as to be done, and were refused.
    assert!(
        answered[2].get() > 0 && answered[4].get() > 0,
        "{answered:?}"
    );
    wait_until_well(&machine);
}
