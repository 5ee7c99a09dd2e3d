//! Topic aliases and the largest packet, in both directions.

use super::{peer::Got, world::*};
use crate::{codec::*, stats::DropReason};

fn with_alias(w: &mut World, c: C, topic: &str, alias: u16, payload: &[u8]) {
    let properties = PublishProperties { topic_alias: Some(alias), ..<_>::default() };
    w.publish_with(c, topic, payload, Q0, false, properties);
}

#[test]
fn a_clients_aliases_are_resolved() {
    let mut w = World::new(2);
    let from = w.connect(Version::V5, "from");
    let to = w.connect(Version::V3_1_1, "to");
    w.subscribe(to, "#", Q0);
    with_alias(&mut w, from, "a", 1, b"1");
    with_alias(&mut w, from, "", 1, b"2");
    with_alias(&mut w, from, "b", 1, b"3");
    with_alias(&mut w, from, "", 1, b"4");
    let topics: Vec<_> = w.messages(to).into_iter().map(|m| m.topic).collect();
    assert_eq!(topics, ["a", "a", "b", "b"]);
    w.end();
}

#[test]
fn aliases_that_are_not_allowed_or_not_known() {
    let cases = [
        ("a", 33, ReasonCode::TopicAliasInvalid),
        ("", 5, ReasonCode::ProtocolError),
        ("", 33, ReasonCode::TopicAliasInvalid),
    ];
    for (topic, alias, reason) in cases {
        let mut w = World::new(1);
        let c = w.connect(Version::V5, "c");
        with_alias(&mut w, c, topic, alias, b"");
        assert_eq!(w.got(c), [Got::Disconnect(reason)]);
        w.end();
    }
}

#[test]
fn aliases_end_with_their_connection() {
    let mut w = World::new(1);
    let mut connect = staying(Version::V5, "c");
    connect.properties.topic_alias_maximum = 5;
    for _ in 0..2 {
        let c = w.connected(&connect);
        w.subscribe(c, "a", Q1);
        with_alias(&mut w, c, "a", 1, b"x");
        with_alias(&mut w, c, "", 1, b"y");
        let messages = w.messages(c);
        assert_eq!(messages.len(), 2);
        assert!(messages[0].full_topic && !messages[1].full_topic);
        w.cut(c);
    }
    let c = w.connected(&connect);
    with_alias(&mut w, c, "", 1, b"x");
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::ProtocolError)]);
    w.end();
}

#[test]
fn the_broker_sets_aliases_up_to_the_clients_maximum() {
    let mut w = World::new(1);
    let from = w.connect(Version::V5, "from");
    let mut connect = hello(Version::V5, "to");
    connect.properties.topic_alias_maximum = 2;
    let to = w.connected(&connect);
    w.subscribe(to, "#", Q1);
    for qos in [Q0, Q1] {
        for topic in ["one", "two", "three"] {
            w.publish(from, topic, b"x", qos);
        }
    }
    let messages = w.messages(to);
    let seen: Vec<_> = messages.iter().map(|m| (m.topic.as_str(), m.alias, m.full_topic)).collect();
    assert_eq!(
        seen,
        [
            ("one", Some(1), true),
            ("two", Some(2), true),
            ("three", None, true),
            ("one", Some(1), false),
            ("two", Some(2), false),
            ("three", None, true),
        ]
    );
    w.end();
}

#[test]
fn no_packet_is_larger_than_the_client_takes() {
    for (aliases, id) in [(0, 0), (5, 0), (0, 3), (5, 3)] {
        for qos in [Q0, Q1, Q2] {
            let mut w = World::new(2);
            let from = w.connect(Version::V5, "from");
            let mut connect = staying(Version::V5, "to");
            connect.properties.topic_alias_maximum = aliases;
            connect.properties.maximum_packet_size = Some(50);
            let to = w.connected(&connect);
            w.subscribe_with(to, "t/#", SubscriptionOptions::new(Q2), id);
            let mut received = 0;
            for size in 0..60 {
                w.publish(from, &format!("t/{size:02}"), &vec![b'x'; size], qos);
                let messages = w.messages(to);
                assert!(messages.iter().all(|m| m.size <= 50));
                received += messages.len() as u64;
            }
            assert!(received >= 30);
            assert_eq!(w.dropped(DropReason::TooLarge), 60 - received, "counted");
            // The same through the queue of a client that was away.
            w.cut(to);
            w.publish(from, "t/big", &[b'x'; 100], Q1);
            w.publish(from, "t/ok", b"ok", Q1);
            let to = w.connected(&connect);
            assert_eq!(w.texts(to), ["ok"]);
            assert_eq!(w.dropped(DropReason::TooLarge), 61 - received);
            w.end();
        }
    }
}

/// An alias takes three bytes, more than a topic of one or two.
#[test]
fn no_packet_grows_beyond_that_by_an_alias_for_a_short_topic() {
    for topic in ["a", "ab", "abc"] {
        let mut w = World::new(1);
        let from = w.connect(Version::V5, "from");
        let mut connect = hello(Version::V5, "to");
        connect.properties.topic_alias_maximum = 5;
        connect.properties.maximum_packet_size = Some(50);
        let to = w.connected(&connect);
        w.subscribe(to, topic, Q0);
        for size in 0..60 {
            w.publish(from, topic, &vec![b'x'; size], Q0);
        }
        let messages = w.messages(to);
        assert!(messages.iter().all(|m| m.size <= 50 && m.topic == topic));
        assert_eq!(messages.len() as u64 + w.dropped(DropReason::TooLarge), 60);
        assert!(messages.iter().any(|m| m.size == 50));
        w.end();
    }
}

#[test]
fn what_cannot_be_sent_leaves_nothing_behind() {
    let mut w = World::new(1);
    let mut connect = hello(Version::V5, "c");
    connect.properties.maximum_packet_size = Some(50);
    let c = w.connected(&connect);
    w.subscribe(c, "a", Q1);
    w.publish(c, "a", &[b'x'; 100], Q1);
    w.peers[c].acknowledges = false;
    w.publish(c, "$SYS/a", b"refused", Q2);
    let client = w.brokers[0].clients.sessions.iter().next().unwrap().1;
    assert!(client.outgoing.is_none() && client.incoming.is_none());
    w.end();
}

#[test]
fn a_packet_larger_than_announced_ends_the_connection() {
    let mut w = World::with(1, |c| c.max_packet_size = 100);
    let c = w.connect(Version::V5, "c");
    // The claim is enough.
    w.send_bytes(c, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F]);
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::PacketTooLarge)]);
    w.end();
}
