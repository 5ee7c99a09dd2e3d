//! Shared subscriptions over several shards.

use super::world::*;
use crate::{codec::*, stats::DropReason, topics::Strategy};

/// A member on each of the shards, and a publisher on shard 0.
fn group(w: &mut World, members: usize) -> (C, Vec<C>) {
    let shards = w.brokers.len();
    let members = (0..members).map(|n| {
        let id = w.id_on(n % shards, &format!("member{n}"));
        let c = w.connected(&staying(Version::V5, &id));
        w.subscribe(c, "$share/g/job/+", Q1);
        c
    });
    let members = members.collect();
    (w.connect(Version::V5, &w.id_on(0, "from")), members)
}

fn counts(w: &mut World, members: &[C]) -> Vec<usize> {
    members.iter().map(|c| w.messages(*c).len()).collect()
}

#[test]
fn every_message_goes_to_one_member() {
    for strategy in [
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::Sticky,
        Strategy::HashClientId,
        Strategy::HashTopic,
        Strategy::Local,
    ] {
        let mut w = World::with(3, |c| c.strategy = strategy);
        let (from, members) = group(&mut w, 6);
        for n in 0..60 {
            w.publish(from, &format!("job/{n}"), b"x", Q1);
        }
        let counts = counts(&mut w, &members);
        assert_eq!(counts.iter().sum::<usize>(), 60, "{strategy:?}");
        let busy = counts.iter().filter(|count| **count > 0).count();
        match strategy {
            Strategy::RoundRobin => assert_eq!(counts, [10; 6]),
            Strategy::Random | Strategy::HashTopic => assert!(busy > 3, "{counts:?}"),
            Strategy::Sticky | Strategy::HashClientId => assert_eq!(busy, 1, "{counts:?}"),
            Strategy::Local => assert_eq!(counts, [30, 0, 0, 30, 0, 0]),
        }
        w.end();
    }
}

#[test]
fn a_group_and_a_subscription_of_ones_own_both_deliver() {
    let mut w = World::new(2);
    let (from, members) = group(&mut w, 1);
    w.subscribe(members[0], "job/#", Q0);
    w.subscribe(members[0], "$share/h/job/1", Q1);
    w.publish(from, "job/1", b"x", Q1);
    let mut qos: Vec<_> = w.messages(members[0]).iter().map(|m| m.qos).collect();
    qos.sort_unstable();
    assert_eq!(qos, [0, 1, 1]);
    w.end();
}

#[test]
fn members_that_are_away_get_nothing_while_others_are_there() {
    let mut w = World::new(3);
    let (from, members) = group(&mut w, 3);
    w.cut(members[1]);
    for _ in 0..6 {
        w.publish(from, "job/1", b"x", Q1);
    }
    assert_eq!(counts(&mut w, &members), [3, 0, 3]);
    w.cut(members[0]);
    w.cut(members[2]);
    for _ in 0..6 {
        w.publish(from, "job/1", b"x", Q1);
    }
    assert_eq!(w.totals().queued_messages, 6, "with nobody there, they wait");
    let back = w.connected(&staying(Version::V5, &w.id_on(1, "member1")));
    assert_eq!(w.messages(back).len(), 2);
    w.end();
}

#[test]
fn a_member_that_leaves_while_a_message_is_on_its_way() {
    let mut w = World::new(3);
    let (from, members) = group(&mut w, 3);
    w.delivers_mail = false;
    for _ in 0..3 {
        w.publish(from, "job/1", b"x", Q1);
    }
    w.unsubscribe(members[1], "$share/g/job/+");
    w.delivers_mail = true;
    w.settle();
    let counts = counts(&mut w, &members);
    assert_eq!((counts[1], counts[0] + counts[2]), (0, 3), "sent on to another shard");
    w.end();
}

#[test]
fn the_last_member_leaves_while_a_message_is_on_its_way() {
    let mut w = World::new(2);
    let id = w.id_on(1, "only");
    let only = w.connect(Version::V5, &id);
    w.subscribe(only, "$share/g/a", Q1);
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    w.delivers_mail = false;
    w.publish(from, "a", b"x", Q1);
    w.disconnect(only);
    w.delivers_mail = true;
    w.settle();
    assert_eq!(w.dropped(DropReason::NoMember), 1);
    w.end();
}

#[test]
fn what_a_member_did_not_acknowledge_goes_to_another_when_its_session_ends() {
    let mut w = World::with(2, |c| c.max_inflight = 2);
    let (from, members) = group(&mut w, 1);
    w.peers[members[0]].acknowledges = false;
    for n in 0..4 {
        w.publish(from, "job/1", &[b'0' + n], Q1);
    }
    assert_eq!(w.messages(members[0]).len(), 2);
    w.cut(members[0]);
    let other = w.connect(Version::V5, &w.id_on(1, "other"));
    w.subscribe(other, "$share/g/job/+", Q1);
    assert!(w.messages(other).is_empty(), "the session may come back");
    w.advance(3_601_000);
    assert_eq!(w.texts(other), ["0", "1", "2", "3"]);
    assert_eq!(w.dropped(DropReason::SessionEnded), 0);
    w.end();
}

/// Shows: MQTT5-4.8.2-5
#[test]
fn a_qos_2_message_in_flight_goes_to_nobody_else() {
    let mut w = World::new(1);
    let id = w.id_on(0, "one");
    let one = w.connect(Version::V5, &id);
    w.subscribe(one, "$share/g/a", Q2);
    w.peers[one].acknowledges = false;
    let from = w.connect(Version::V5, "from");
    w.publish(from, "a", b"x", Q2);
    let two = w.connect(Version::V5, "two");
    w.subscribe(two, "$share/g/a", Q2);
    w.cut(one);
    // [MQTT-4.8.2-5]
    assert!(w.messages(two).is_empty());
    assert_eq!(w.dropped(DropReason::SessionEnded), 1);
    w.end();
}

#[test]
fn without_credit_the_publisher_to_a_group_waits_and_nothing_is_lost() {
    let mut w = World::new(2);
    w.credit = 2;
    let only = w.connect(Version::V5, &w.id_on(1, "only"));
    w.subscribe(only, "$share/g/a", Q1);
    let from = w.connect(Version::V5, &w.id_on(0, "from"));
    w.delivers_mail = false;
    for _ in 0..5 {
        w.publish(from, "a", b"0", Q0);
    }
    for _ in 0..5 {
        w.publish(from, "a", b"1", Q1);
    }
    assert!(w.peers[from].paused);
    w.delivers_mail = true;
    w.settle();
    assert_eq!(w.texts(only), ["0", "0", "0", "0", "0", "1", "1", "1", "1", "1"]);
    assert_eq!(w.totals().publish_dropped.total(), 0);
    w.end();
}

#[test]
fn what_is_left_of_a_session_goes_to_the_group_that_it_came_through() {
    let mut w = World::new(1);
    let one = w.connect(Version::V5, "one");
    w.subscribe(one, "$share/g/job/+", Q1);
    w.subscribe(one, "$share/h/job/1", Q1);
    w.peers[one].acknowledges = false;
    let from = w.connect(Version::V5, "from");
    w.publish(from, "job/1", b"x", Q1);
    assert_eq!(w.messages(one).len(), 2, "one for each group");
    let g = w.connect(Version::V5, "g");
    w.subscribe(g, "$share/g/job/+", Q1);
    let h = w.connect(Version::V5, "h");
    w.subscribe(h, "$share/h/job/1", Q1);
    w.cut(one);
    assert_eq!((w.messages(g).len(), w.messages(h).len()), (1, 1));
    w.end();
}

#[test]
fn a_group_that_is_joined_twice_is_left_once() {
    let mut w = World::new(2);
    let c = w.connect(Version::V5, "c");
    w.subscribe(c, "$share/g/a", Q1);
    w.subscribe(c, "$share/g/a", Q0);
    assert_eq!(w.totals().shared_subscriptions, 1);
    w.publish(c, "a", b"x", Q1);
    assert_eq!(w.messages(c)[0].qos, 0, "with the later options");
    w.unsubscribe(c, "$share/g/a");
    w.publish(c, "a", b"x", Q1);
    assert!(w.messages(c).is_empty());
    w.end();
}
