//! What a session of a group that ends has left in the store. MQTT 5.0 section 4.8.2.

use std::collections::BTreeSet;

use super::{
    peer::staying,
    world::{C, Q1, Q2, World, hello},
};
use crate::{codec::*, stats::DropReason};

/// More than are read at a time.
const MESSAGES: usize = 150;

/// A member of a group that is away, to which so many messages are owed.
fn left(w: &mut World, qos: QoS) {
    let c = w.connected(&staying(Version::V5, "leaver"));
    w.subscribe(c, "$share/g/job/+", qos);
    w.subscribe(c, "own", qos);
    w.cut(c);
    let from = w.connect(Version::V5, "from");
    w.peers[from].acknowledges = true;
    for n in 0..MESSAGES {
        w.publish(from, &format!("job/{n}"), n.to_string().as_bytes(), qos);
        w.got(from);
    }
    w.publish(from, "own", b"own", qos);
}

fn ends(w: &mut World) {
    w.connected(&hello(Version::V5, "leaver"));
}

fn numbers(w: &mut World, c: C) -> Vec<usize> {
    w.texts(c).iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn what_a_session_has_left_goes_to_another_member_and_from_the_store() {
    for shards in [1, 2, 3] {
        for qos in [Q1, Q2] {
            let mut w = World::durable_with(shards, |c| c.queued_in_memory = 10);
            left(&mut w, qos);
            let heir = w.connected(&staying(Version::V5, "heir"));
            w.subscribe(heir, "$share/g/job/+", qos);
            w.peers[heir].acknowledges = true;
            ends(&mut w);
            let got = numbers(&mut w, heir);
            assert_eq!(got.len(), MESSAGES, "{shards} shards");
            assert_eq!(got.into_iter().collect::<BTreeSet<_>>().len(), MESSAGES);
            assert_eq!(w.dropped(DropReason::SessionEnded), 1, "its own");
            let totals = w.totals();
            assert_eq!((totals.queued_messages, totals.stored_queued_bytes), (0, 0));
        }
    }
}

#[test]
fn an_heir_that_is_away_has_it_in_its_queue() {
    let mut w = World::durable_with(2, |_| ());
    left(&mut w, Q2);
    let heir = w.connected(&staying(Version::V5, "heir"));
    w.subscribe(heir, "$share/g/job/+", Q2);
    w.cut(heir);
    ends(&mut w);
    let mut w = w.crash(3, 10, |_| ());
    let (heir, present) = w.resumed(&staying(Version::V5, "heir"));
    assert!(present);
    w.peers[heir].acknowledges = true;
    w.settle();
    assert_eq!(w.totals().queued_messages as usize + w.messages(heir).len(), MESSAGES);
}

/// What comes to a member on another shard leaves the store in the same batch, at whatever commit
/// everything dies.
#[test]
fn a_crash_while_it_is_dealt_out_neither_loses_nor_doubles_a_message_of_qos_2() {
    let mut commits = 0;
    let mut goes_on = true;
    while goes_on {
        let mut w = World::durable_with(2, |c| c.queued_in_memory = 10);
        left(&mut w, Q2);
        let other = 1 - w.shared.home_shard("leaver").index();
        let heir_id = w.id_on(other, "heir");
        let heir = w.connected(&staying(Version::V5, &heir_id));
        w.subscribe(heir, "$share/g/job/+", Q2);
        w.cut(heir);
        w.store.as_mut().unwrap().is_slow = true;
        w.connect_with(&hello(Version::V5, "leaver"));
        for _ in 0..commits {
            goes_on = w.commit();
            w.settle();
        }
        let mut w = w.crash(2, 10, |_| ());
        w.acknowledges = true;
        let (heir, _) = w.resumed(&staying(Version::V5, &heir_id));
        ends(&mut w);
        let got = numbers(&mut w, heir);
        assert_eq!(got.len(), MESSAGES, "after {commits} commits");
        assert_eq!(got.into_iter().collect::<BTreeSet<_>>().len(), MESSAGES);
        commits += 1;
    }
    assert!(commits > 5, "{commits}");
}

#[test]
fn without_another_member_it_is_dropped_and_counted() {
    for shards in [1, 2] {
        let mut w = World::durable_with(shards, |_| ());
        left(&mut w, Q1);
        ends(&mut w);
        assert_eq!(w.dropped(DropReason::NoMember), MESSAGES as u64);
        assert_eq!(w.dropped(DropReason::SessionEnded), 1);
        w.end();
    }
}

#[test]
fn a_session_that_has_ended_does_not_come_back_with_what_it_has_left() {
    let mut w = World::durable_with(2, |_| ());
    left(&mut w, Q1);
    let heir = w.connected(&staying(Version::V5, "heir"));
    w.subscribe(heir, "$share/g/job/+", Q1);
    w.cut(heir);
    w.store.as_mut().unwrap().is_slow = true;
    w.connect_with(&hello(Version::V5, "leaver"));
    let mut w = w.crash(2, 10, |_| ());
    let (_, present) = w.resumed(&staying(Version::V5, "leaver"));
    assert!(present, "that it has ended was neither kept nor said");
    ends(&mut w);
    let mut w = w.crash(1, 10, |_| ());
    let (_, present) = w.resumed(&staying(Version::V5, "leaver"));
    assert!(!present);
}
