//! What a ledger promises, one claim each, and what it refuses.

mod model;

use proptest::prelude::*;

use super::*;

const AR: Cause = Cause::ActionRequired;
const AO: Cause = Cause::ActionOptional;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis).unwrap()
}

fn gpa(frame: u64) -> Gpa {
    gpa_of(frame)
}

fn range(frame: u64, frames: u64) -> GpaRange {
    GpaRange::new(gpa(frame), frames * FRAME_SIZE).unwrap()
}

/// A ledger with a bit of everything: single losses, a whole page, steps in time, a clear, and
/// recipients that know nothing, some and all.
fn small() -> Ledger {
    let mut ledger = Ledger::new();
    ledger.insert(gpa(1), AR, at(5));
    ledger.clear();
    ledger.register("nobody-told-it");
    let some = ledger.register("guest-mce");
    let all = ledger.register("vhost-user-blk");
    ledger.insert(gpa(0x8_0000_0000), AR, at(1_763_643_600_123));
    ledger.insert(gpa(7), AO, at(1_763_643_600_120));
    ledger.insert_range(range(512, 512), AO, at(1_763_643_700_000));
    ledger.insert(gpa(9), AR, at(1_763_643_700_001));
    ledger.tell(some, gpa(0x8_0000_0000));
    ledger.tell(some, gpa(600));
    ledger.tell_before(all, ledger.generation());
    ledger.insert(gpa(10), AR, at(1_763_643_700_001));
    ledger.entrust(range(10, 1));
    ledger
}

#[test]
fn a_frame_is_lost_only_once() {
    let mut ledger = Ledger::new();
    assert!(ledger.insert(Gpa::new(0x1234), AR, at(1)));
    assert!(!ledger.insert(Gpa::new(0x1fff), AO, at(2)));
    assert_eq!((ledger.len(), ledger.lost_bytes()), (1, FRAME_SIZE));
    let loss = ledger.entry(Gpa::new(0x1000)).unwrap().loss;
    assert_eq!((loss.cause, loss.time), (AR, at(1)));
}

#[test]
fn a_page_lost_whole_adds_only_the_frames_that_were_healthy() {
    let mut ledger = Ledger::new();
    ledger.insert(gpa(300_000), AR, at(1));
    assert_eq!(
        ledger.insert_range(range(1 << 18, 1 << 18), AO, at(2)),
        (1 << 18) - 1
    );
    assert_eq!(ledger.runs().collect::<Vec<_>>(), [range(1 << 18, 1 << 18)]);
    assert_eq!(ledger.entry(gpa(300_000)).unwrap().loss.cause, AR);
    assert_eq!(ledger.entry(gpa(300_001)).unwrap().loss.cause, AO);
    assert!(ledger.memory_bytes() < 200 << 10);
}

#[test]
fn a_range_loses_every_frame_it_touches() {
    let mut ledger = Ledger::new();
    let across = GpaRange::new(Gpa::new(0x1fff), 2).unwrap();
    assert_eq!(ledger.insert_range(across, AR, at(1)), 2);
    let nothing = GpaRange::new(Gpa::new(0x1fff), 0).unwrap();
    assert_eq!(ledger.insert_range(nothing, AR, at(1)), 0);
    assert!(ledger.overlaps(&across) && !ledger.overlaps(&nothing));
}

#[test]
fn addresses_reach_to_the_end_of_the_space() {
    let mut ledger = Ledger::new();
    let last = Gpa::new(u64::MAX);
    assert!(ledger.insert(last, AR, at(1)));
    assert!(ledger.contains(last) && ledger.entry(last).is_some());
    assert_eq!(ledger.iter().collect::<Vec<_>>(), [last.frame()]);
    assert_eq!(Ledger::from_bytes(&ledger.to_bytes()), Ok(ledger));
}

#[test]
fn a_diff_holds_what_was_lost_since_and_no_more() {
    let mut ledger = Ledger::new();
    for frame in 0..10_000 {
        ledger.insert(gpa(frame * 37 % 10_007), AR, at(frame));
    }
    let seen = ledger.generation();
    ledger.insert(gpa(20_000), AR, at(1));
    ledger.insert_range(range(30_000, 1000), AO, at(2));
    let diff: Vec<_> = ledger.since(seen).unwrap().collect();
    assert_eq!(diff.len(), 1001);
    assert_eq!((diff[0].gpa, diff[0].generation), (gpa(20_000), seen));
    assert_eq!(diff[1].generation, seen.next());
    assert_eq!(ledger.since(ledger.generation()).unwrap().count(), 0);
    assert_eq!(ledger.since(Generation::new(u64::MAX)).unwrap().count(), 0);
}

#[test]
fn a_clear_is_seen_by_everyone_who_looked_before() {
    let mut ledger = small();
    let before = ledger.generation();
    ledger.clear();
    assert!(ledger.is_empty() && !ledger.contains(gpa(7)));
    assert!(ledger.since(before).is_none());
    assert_eq!(ledger.since(ledger.first_generation()).unwrap().count(), 0);
    let guest = ledger.recipient("guest-mce").unwrap();
    assert_eq!(ledger.untold(guest).count(), 0);
    assert!(ledger.insert(gpa(7), AR, at(1)));
    assert_eq!(ledger.untold(guest).count(), 1);
}

#[test]
fn a_frame_told_ahead_is_not_told_again() {
    let mut ledger = Ledger::new();
    let guest = ledger.register("guest-mce");
    for frame in 0..4 {
        ledger.insert(gpa(frame), AO, at(frame));
    }
    assert!(ledger.tell(guest, gpa(2)));
    assert!(!ledger.tell(guest, gpa(2)));
    assert!(
        !ledger.tell(guest, gpa(99)),
        "a healthy frame cannot be told"
    );
    let untold = |ledger: &Ledger| ledger.untold(guest).map(|l| l.gpa).collect::<Vec<_>>();
    assert_eq!(untold(&ledger), [gpa(0), gpa(1), gpa(3)]);
    assert!(ledger.tell(guest, gpa(0)) && ledger.tell(guest, gpa(1)));
    assert_eq!(untold(&ledger), [gpa(3)]);
    assert!(!ledger.tell(guest, gpa(2)) && !ledger.tell(guest, gpa(0)));
}

#[test]
fn a_name_is_registered_once_and_starts_with_all_losses_untold() {
    let mut ledger = small();
    assert_eq!(
        ledger.register("guest-mce"),
        ledger.recipient("guest-mce").unwrap()
    );
    let late = ledger.register("late");
    assert_eq!(ledger.untold(late).count() as u64, ledger.len());
    assert_eq!(ledger.told(gpa(600)), ["guest-mce", "vhost-user-blk"]);
    assert_eq!(ledger.told(gpa(7)), ["vhost-user-blk"]);
    assert!(ledger.told(gpa(8)).is_empty());
}

#[test]
fn a_lost_frame_is_the_guests_to_keep_off_until_it_is_taken_back() {
    let mut ledger = small();
    ledger.entrust(range(1000, 24));
    let of = |ledger: &Ledger, frame| ledger.enforcement(gpa(frame));
    assert_eq!(of(&ledger, 999), Some(Enforcement::Host));
    assert_eq!(of(&ledger, 1000), Some(Enforcement::Guest));
    assert_eq!(of(&ledger, 11), None, "a healthy frame is nobody's");
    ledger.entrust(range(8, 4));
    assert_eq!(
        ledger.entrusted_in(&range(0, 600)).collect::<Vec<_>>(),
        [range(9, 2)]
    );
    ledger.take_back(range(10, 995));
    assert_eq!(
        ledger.entrusted_in(&range(0, 1024)).collect::<Vec<_>>(),
        [range(9, 1), range(1005, 19)]
    );
    assert_eq!(
        ledger.enforced_in(&range(0, 1024)).collect::<Vec<_>>(),
        [range(7, 1), range(10, 1), range(512, 493)]
    );
    assert_eq!(
        ledger.entry(gpa(9)).map(|entry| entry.enforcement),
        Some(Enforcement::Guest)
    );
    ledger.clear();
    ledger.insert(gpa(9), AR, at(1));
    assert_eq!(of(&ledger, 9), Some(Enforcement::Host));
}

#[test]
fn an_empty_ledger_has_nothing_on_the_heap() {
    assert_eq!(Ledger::new().memory_bytes(), 0);
}

#[test]
fn scattered_frames_on_an_uneven_clock_take_less_than_seven_bytes_each() {
    let mut ledger = Ledger::new();
    let frames = 1 << 20;
    for i in 0..frames {
        // An odd factor permutes, so that every frame of 64 GiB has the same chance.
        let frame = (i * 0x9e37_79b1) % (1 << 24);
        ledger.insert(
            gpa(frame),
            if i % 3 == 0 { AR } else { AO },
            at(2 * i + frame % 3),
        );
    }
    assert_eq!(ledger.len(), frames);
    assert!((ledger.memory_bytes() as u64) < 7 * frames);
}

#[test]
fn every_flipped_byte_is_refused() {
    let bytes = small().to_bytes();
    for place in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut flipped = bytes.clone();
            flipped[place] ^= flip;
            assert!(Ledger::from_bytes(&flipped).is_err(), "byte {place}");
        }
    }
}

#[test]
fn a_truncated_ledger_is_refused_with_the_place() {
    let bytes = small().to_bytes();
    for len in 0..bytes.len() {
        let offset = len as u64;
        let refused = Ledger::from_bytes(&bytes[..len]);
        assert_eq!(refused, Err(DecodeError::Truncated { offset }));
    }
    let offset = bytes.len() as u64;
    let refused = Ledger::from_bytes(&[&bytes[..], &[0]].concat());
    assert_eq!(refused, Err(DecodeError::TrailingBytes { offset }));
}

#[test]
fn a_refusal_names_what_is_wrong() {
    let bytes = small().to_bytes();
    let refused = |place: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[place] = value;
        Ledger::from_bytes(&bytes).unwrap_err().to_string()
    };
    assert_eq!(
        refused(0, b'X'),
        "not a ledger: it does not start with the magic bytes"
    );
    assert_eq!(refused(8, 9), "ledger version 9 is not supported, only 1");
    assert!(refused(30, 0xff).starts_with("checksum mismatch: stored 0x"));
}

#[test]
fn json_that_contradicts_itself_is_refused() {
    let refused = |what: &str, instead: &str| {
        let json = serde_json::to_string(&small()).unwrap();
        assert!(json.contains(what), "{what} in {json}");
        let json = json.replacen(what, instead, 1);
        serde_json::from_str::<Ledger>(&json)
            .unwrap_err()
            .to_string()
    };
    for (what, instead, reason) in [
        (
            "ledger/1",
            "ledger/2",
            "schema \"pagemend.ledger/2\" is not supported",
        ),
        (
            "\"frames\":512",
            "\"frames\":4000000000",
            "a run of no frames or too many",
        ),
        (
            "\"frames\":512",
            "\"frames\":0",
            "a run of no frames or too many",
        ),
        (
            "\"gpa\":28672",
            "\"gpa\":28673",
            "an address inside a frame",
        ),
        (
            "\"gpa\":28672",
            "\"gpa\":40960",
            "a frame that is lost twice",
        ),
        (
            "\"generation\":3",
            "\"generation\":4",
            "losses out of order",
        ),
        (
            "\"lost_bytes\":",
            "\"lost_bytes\":1",
            "lost bytes that are not those of the losses",
        ),
        (
            "\"first_generation\":2",
            "\"first_generation\":18446744073709551615",
            "beyond",
        ),
        (
            "\"time_ms\":1763643600120",
            "\"time_ms\":18446744073709551615",
            "no timestamp can have",
        ),
        ("guest-mce", "vhost-user-blk", "registered twice"),
        (
            "\"told_before\":2",
            "\"told_before\":1",
            "at a generation that is not there",
        ),
        (
            "\"told_ahead\":[92]",
            "\"told_ahead\":[92,92]",
            "told what is not there",
        ),
        (
            "\"told_ahead\":[92]",
            "\"told_ahead\":[9999]",
            "told what is not there",
        ),
        ("\"guest\"", "\"nobody\"", "unknown variant"),
    ] {
        let found = refused(what, instead);
        assert!(found.contains(reason), "{what} → {instead}: {found}");
    }
}

#[test]
fn the_documented_example_is_what_the_ledger_writes() {
    let document = include_str!("../../../../docs/ledger.md");
    let (_, json) = document.split_once("```json\n").unwrap();
    let (json, _) = json.split_once("```").unwrap();
    let ledger: Ledger = serde_json::from_str(json).unwrap();
    let documented: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_value(&ledger).unwrap(), documented);
    assert_eq!((ledger.len(), ledger.lost_bytes()), (514, 2_105_344));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(noise: Vec<u8>, keep in 0..28usize) {
        let bytes = [&small().to_bytes()[..keep], &noise].concat();
        let _ = Ledger::from_bytes(&bytes);
    }

    /// Whoever wants to break a decoder gets the checksum right.
    #[test]
    fn changed_bytes_under_a_right_checksum_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = small().to_bytes();
        let checked = bytes.len() - 4;
        for (place, value) in changes {
            bytes[20 + place.index(checked - 20)] = value;
        }
        let checksum = crc32fast::hash(&bytes[..checked]);
        bytes[checked..].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(ledger) = Ledger::from_bytes(&bytes) {
            prop_assert_eq!(Ledger::from_bytes(&ledger.to_bytes()).unwrap(), ledger);
        }
    }
}
