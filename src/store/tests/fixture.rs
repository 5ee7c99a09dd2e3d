//! A data folder that an earlier version wrote is read by this one.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::faults::{delivery, message, session};
use super::folder::{commit, copy, open, write_tables};
use crate::record::model::Model;
use crate::record::{
    Change, DeliveryState, Load, MessageRecord, Restored, SubscriptionRecord, WillRecord,
};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/store-v1")
}

/// One of everything; the first half is in tables, the second in the journal.
fn changes() -> [Vec<Change>; 2] {
    let Change::PutMessage { body, .. } = message(1, 20) else { unreachable!() };
    let body = MessageRecord { properties_at: 5, payload_at: 9, qos: 2, expires_at: 77, ..body };
    let record = SubscriptionRecord { options: 0b10_1001, id: 268_435_455 };
    let subscribe =
        |session, filter: &str| Change::PutSubscription { session, filter: filter.into(), record };
    let Change::PutSession { record: mut second, .. } = session(2, "second") else {
        unreachable!()
    };
    let will = WillRecord { body: body.clone(), delay_interval: 3, expiry_interval: Some(4) };
    second.will = Some(will);
    second.user_name = Some("user".into());
    second.offline_since = Some(1_800_000_000_000);
    let set = |session, position, state| Change::SetState { session, position, state };
    let retain = |topic: &str| Change::PutRetained { topic: topic.into(), body: body.clone() };
    let first = vec![
        session(1, "first"),
        Change::PutSession { session: 2, record: second },
        subscribe(1, "a/+/b"),
        subscribe(2, "$share/group/#"),
        subscribe(2, &"long/".repeat(100)),
        Change::PutReceived { session: 1, packet_id: 65_535 },
        message(10, 30),
        delivery(1, 20, 10),
        delivery(1, 21, 10),
        delivery(2, 22, 10),
        retain("retained"),
        retain(&"retained/".repeat(100)),
    ];
    let second = vec![
        Change::PutMessage { message: 11, body },
        delivery(1, 23, 11),
        message(12, 1),
        delivery(2, 24, 12),
        set(1, 20, DeliveryState::Received(7)),
        set(1, 21, DeliveryState::Sent(8)),
        Change::DropDelivery { session: 2, position: 22 },
    ];
    [first, second]
}

fn written(path: &Path) {
    let [first, second] = changes();
    commit(path, vec![first]);
    write_tables(path);
    commit(path, vec![second]);
    std::fs::remove_file(path.join("lock")).unwrap();
}

fn check(path: &Path) {
    let mut model = Model::default();
    changes().iter().for_each(|batch| model.apply(batch));
    let store = open(path);
    let mut found = Vec::new();
    let summary = store.restore(&mut |part| found.push(part)).unwrap();
    assert_eq!((summary.sessions, summary.retained, summary.lost), (2, 2, 0));
    let mut expected = model.restore();
    let by_topic = |part: &Restored| match part {
        Restored::Session(session) => (session.session, None),
        Restored::Retained { topic, .. } => (u64::MAX, Some(topic.clone())),
    };
    found.sort_by_key(by_topic);
    expected.sort_by_key(by_topic);
    assert_eq!(found, expected);
    for session in [1, 2] {
        let load = Load { session, tag: 0, from: 0, limit: 9, max_bytes: usize::MAX };
        let (loaded, _) = crate::store::load::load(&*store.engine, &load).unwrap();
        assert_eq!(loaded, model.load(&load));
    }
}

#[test]
fn the_folder_of_format_1_is_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    copy(&fixture(), &path);
    check(&path);
}

/// In a folder that a version wrote that knew no such sessions.
#[test]
fn sessions_that_have_ended_are_found_with_what_they_have_left() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("data");
    copy(&fixture(), &path);
    let Change::PutSession { mut record, .. } = session(2, "second") else { unreachable!() };
    record.is_ended = true;
    // The other one's client has another session, and its own end was not kept.
    commit(&path, vec![vec![session(3, "first"), Change::PutSession { session: 2, record }]]);
    let mut found = Vec::new();
    let summary = open(&path)
        .restore(&mut |part| {
            let Restored::Session(session) = part else { return };
            let left = session.inflight.len() + session.queue.messages;
            found.push((session.session, session.record.is_ended, left));
        })
        .unwrap();
    assert_eq!(found, [(1, true, 3), (2, true, 1), (3, false, 0)]);
    assert_eq!((summary.sessions, summary.ended, summary.lost), (1, 2, 0));
}

#[test]
fn what_this_version_writes_is_what_the_fixture_holds() {
    let folder = TempDir::new().unwrap();
    written(folder.path());
    check(folder.path());
}

/// `cargo test --lib make_the_fixture -- --ignored`, after the old one was removed: only for a new
/// format, in a folder of its own.
#[test]
#[ignore = "it writes into the repository"]
fn make_the_fixture() {
    assert!(!fixture().exists());
    written(&fixture());
}
