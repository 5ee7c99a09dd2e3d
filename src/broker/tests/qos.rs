//! The flows of QoS 0, 1 and 2 in both directions.

use super::{peer::Got, world::*};
use crate::codec::*;

const ALL: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

#[test]
fn a_message_arrives_at_the_lower_qos_whatever_the_versions() {
    for (sender, receiver) in ALL.iter().flat_map(|a| ALL.iter().map(move |b| (*a, *b))) {
        for (published, subscribed) in
            [Q0, Q1, Q2].iter().flat_map(|a| [Q0, Q1, Q2].map(|b| (*a, b)))
        {
            let mut w = World::new(2);
            let from = w.connect(sender, "from");
            let to = w.connect(receiver, "to");
            w.subscribe(to, "a/+", subscribed);
            w.publish(from, "a/b", b"hello", published);
            let messages = w.messages(to);
            assert_eq!(messages.len(), 1);
            assert_eq!((messages[0].topic.as_str(), messages[0].text()), ("a/b", "hello"));
            assert_eq!(messages[0].qos, published.min(subscribed).value());
            assert!(!messages[0].dup && !messages[0].retain);
            let acks = w.got(from);
            match published {
                QoS::AtMostOnce => assert!(acks.is_empty()),
                QoS::AtLeastOnce => assert!(matches!(acks[..], [Got::Ack(AckKind::Puback, ..)])),
                QoS::ExactlyOnce => {
                    assert!(matches!(
                        acks[..],
                        [Got::Ack(AckKind::Pubrec, ..), Got::Ack(AckKind::Pubcomp, ..)]
                    ));
                }
            }
            w.end();
        }
    }
}

#[test]
fn the_publisher_learns_that_nobody_subscribes() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    w.publish(c, "a", b"", Q1);
    let got = w.got(c);
    assert!(matches!(got[..], [Got::Ack(AckKind::Puback, _, ReasonCode::NoMatchingSubscribers)]));
}

#[test]
fn packet_ids_count_up_from_one_in_each_session() {
    let mut w = World::new(1);
    let from = w.connect(Version::V3_1_1, "from");
    let to = w.connected(&staying(Version::V5, "to"));
    w.subscribe(to, "#", Q2);
    for _ in 0..3 {
        w.publish(from, "a", b"", Q1);
    }
    assert_eq!(w.messages(to).iter().map(|m| m.id).collect::<Vec<_>>(), [1, 2, 3]);
    w.cut(to);
    let to = w.connected(&staying(Version::V5, "to"));
    w.publish(from, "a", b"", Q2);
    assert_eq!(w.messages(to)[0].id, 4);
    w.end();
}

#[test]
fn a_duplicate_of_an_unreleased_qos_2_message_is_not_delivered_again() {
    let mut w = World::new(1);
    let from = w.connect(Version::V5, "from");
    let to = w.connect(Version::V5, "to");
    w.subscribe(to, "#", Q0);
    w.peers[from].acknowledges = false;
    let mut publish = Publish {
        dup: false,
        qos: Q2,
        retain: false,
        topic: "a",
        packet_id: PacketId::new(7),
        properties: <_>::default(),
        payload: b"x",
    };
    w.send(from, &Packet::Publish(publish));
    publish.dup = true;
    w.send(from, &Packet::Publish(publish));
    assert_eq!(w.messages(to).len(), 1);
    assert_eq!(w.got(from).len(), 2, "two PUBRECs");
    w.ack(from, AckKind::Pubrel, 7);
    w.ack(from, AckKind::Pubrel, 7);
    assert_eq!(
        w.got(from),
        [
            Got::Ack(AckKind::Pubcomp, 7, ReasonCode::Success),
            Got::Ack(AckKind::Pubcomp, 7, ReasonCode::PacketIdentifierNotFound),
        ]
    );
    publish.dup = false;
    w.send(from, &Packet::Publish(publish));
    assert_eq!(w.messages(to).len(), 1, "the packet id is new again");
    w.end();
}

#[test]
fn unreleased_qos_2_ids_outlive_the_connection() {
    let mut w = World::new(1);
    let from = w.connected(&staying(Version::V3_1_1, "from"));
    let to = w.connect(Version::V5, "to");
    w.subscribe(to, "#", Q2);
    w.peers[from].acknowledges = false;
    let publish = Publish {
        dup: true,
        qos: Q2,
        retain: false,
        topic: "a",
        packet_id: PacketId::new(1),
        properties: <_>::default(),
        payload: b"x",
    };
    w.send(from, &Packet::Publish(publish));
    w.cut(from);
    let from = w.connected(&staying(Version::V3_1_1, "from"));
    w.send(from, &Packet::Publish(publish));
    assert_eq!(w.messages(to).len(), 1);
    w.end();
}

#[test]
fn more_unreleased_messages_than_the_receive_maximum_end_the_connection() {
    for version in ALL {
        let mut w = World::with(1, |c| (c.receive_maximum, c.max_awaiting_rel) = (2, 2));
        let c = w.connect(version, "c");
        w.peers[c].acknowledges = false;
        for _ in 0..3 {
            w.publish(c, "a", b"", Q2);
        }
        assert!(w.is_closed(c));
        let last = w.got(c).pop().unwrap();
        if version == Version::V5 {
            assert_eq!(last, Got::Disconnect(ReasonCode::ReceiveMaximumExceeded));
        }
        w.end();
    }
}

/// A QoS 2 message with this packet id; `dup` if it was sent before.
fn exactly_once(id: u16, dup: bool) -> Packet<'static> {
    let packet_id = PacketId::new(id);
    Packet::Publish(Publish { dup, qos: Q2, topic: "a", packet_id, ..Publish::default() })
}

/// A client with a session that stays, which has sent two QoS 2 messages on an earlier connection.
fn back_with_two_unreleased(w: &mut World, version: Version) -> C {
    let c = w.connected(&staying(version, "c"));
    w.peers[c].acknowledges = false;
    w.send(c, &exactly_once(1, false));
    w.send(c, &exactly_once(2, false));
    w.cut(c);
    let c = w.connected(&staying(version, "c"));
    w.peers[c].acknowledges = false;
    c
}

/// MQTT 5.0 section 4.9: the quota begins anew, and each PUBLISH takes one of it.
#[test]
fn what_is_sent_again_on_a_new_connection_takes_of_its_receive_maximum() {
    let exceeded = Got::Disconnect(ReasonCode::ReceiveMaximumExceeded);
    let mut w = World::with(1, |c| (c.receive_maximum, c.max_awaiting_rel) = (2, 2));
    let c = back_with_two_unreleased(&mut w, Version::V5);
    w.send(c, &exactly_once(1, true));
    w.send(c, &exactly_once(3, false));
    // What came on this connection already takes no more.
    w.send(c, &exactly_once(1, true));
    assert!(!w.is_closed(c));
    w.send(c, &exactly_once(2, true));
    assert_eq!(w.got(c).pop(), Some(exceeded.clone()));
    w.end();

    let mut w = World::with(1, |c| (c.receive_maximum, c.max_awaiting_rel) = (2, 2));
    let c = back_with_two_unreleased(&mut w, Version::V5);
    w.send(c, &exactly_once(1, true));
    w.send(c, &exactly_once(2, true));
    w.ack(c, AckKind::Pubrel, 1);
    w.send(c, &exactly_once(3, false));
    assert!(!w.is_closed(c));
    w.send(c, &exactly_once(4, false));
    assert_eq!(w.got(c).pop(), Some(exceeded));
    w.end();

    // Clients before MQTT 5 know no quota: what they send again is not held against them.
    let mut w = World::with(1, |c| (c.receive_maximum, c.max_awaiting_rel) = (2, 2));
    let c = back_with_two_unreleased(&mut w, Version::V3_1_1);
    w.send(c, &exactly_once(3, false));
    w.send(c, &exactly_once(4, false));
    for id in 1..=4 {
        w.send(c, &exactly_once(id, true));
    }
    assert!(!w.is_closed(c));
    w.end();
}

/// MQTT 5.0 section 4.9: every PUBCOMP gives the client one of its quota back, also one for what it
/// had sent on an earlier connection, and also one that says that there was no such message.
#[test]
fn a_client_that_counts_every_pubcomp_keeps_to_the_receive_maximum() {
    for already_released in [false, true] {
        let mut w = World::with(1, |c| (c.receive_maximum, c.max_awaiting_rel) = (2, 2));
        let mut c = back_with_two_unreleased(&mut w, Version::V5);
        if already_released {
            // The PUBCOMPs are lost.
            w.ack(c, AckKind::Pubrel, 1);
            w.ack(c, AckKind::Pubrel, 2);
            w.cut(c);
            c = w.connected(&staying(Version::V5, "c"));
            w.peers[c].acknowledges = false;
        }
        w.ack(c, AckKind::Pubrel, 1);
        w.ack(c, AckKind::Pubrel, 2);
        // They are on their way before the PUBCOMPs have come, and with those there are two more.
        for id in 3..=6 {
            w.send(c, &exactly_once(id, false));
            assert!(!w.is_closed(c), "{id} {already_released}");
        }
        w.send(c, &exactly_once(7, false));
        assert_eq!(w.got(c).pop(), Some(Got::Disconnect(ReasonCode::ReceiveMaximumExceeded)));
        w.end();
    }
}

#[test]
fn the_window_towards_a_client_is_the_smaller_of_both() {
    for (version, theirs, window) in
        [(Version::V5, Some(2), 2), (Version::V5, Some(9), 4), (Version::V3_1_1, None, 4)]
    {
        let mut w = World::with(1, |c| c.max_inflight = 4);
        let from = w.connect(Version::V5, "from");
        let mut connect = hello(version, "to");
        connect.properties.receive_maximum = theirs;
        let to = w.connected(&connect);
        w.subscribe(to, "#", Q2);
        w.peers[to].acknowledges = false;
        for n in 0..10 {
            w.publish(from, "a", &[b'0' + n], if n % 2 == 0 { Q1 } else { Q2 });
        }
        let first = w.messages(to);
        assert_eq!(first.len(), window);
        // An acknowledged message makes room for one, a received one of QoS 2 does not.
        w.ack(to, AckKind::Pubrec, first[1].id);
        assert!(w.messages(to).is_empty());
        w.ack(to, AckKind::Puback, first[0].id);
        assert_eq!(w.messages(to).len(), 1);
        w.ack(to, AckKind::Pubcomp, first[1].id);
        assert_eq!(w.messages(to).len(), 1);
        w.end();
    }
}

#[test]
fn a_refused_qos_2_message_is_over() {
    let mut w = World::with(1, |c| c.max_inflight = 1);
    let from = w.connect(Version::V5, "from");
    let to = w.connect(Version::V5, "to");
    w.subscribe(to, "#", Q2);
    w.peers[to].acknowledges = false;
    w.publish(from, "a", b"1", Q2);
    w.publish(from, "a", b"2", Q2);
    let first = w.messages(to);
    assert_eq!(first.len(), 1);
    w.peers[to].ack_with(AckKind::Pubrec, first[0].id, ReasonCode::QuotaExceeded);
    w.settle();
    assert_eq!(w.texts(to), ["2"], "no PUBREL, and the window has room again");
    w.end();
}

#[test]
fn acknowledgements_that_fit_nothing() {
    let mut w = World::new(1);
    let from = w.connect(Version::V5, "from");
    let to = w.connect(Version::V5, "to");
    w.subscribe(to, "#", Q2);
    w.peers[to].acknowledges = false;
    for kind in [AckKind::Puback, AckKind::Pubcomp] {
        w.ack(to, kind, 99);
        assert!(w.got(to).is_empty(), "{kind:?} of an unknown packet is passed over");
    }
    w.ack(to, AckKind::Pubrec, 99);
    let not_found = ReasonCode::PacketIdentifierNotFound;
    assert_eq!(w.got(to), [Got::Ack(AckKind::Pubrel, 99, not_found)]);
    w.publish(from, "a", b"", Q2);
    let id = w.messages(to)[0].id;
    w.ack(to, AckKind::Puback, id);
    assert_eq!(w.got(to), [Got::Disconnect(ReasonCode::ProtocolError)]);
    w.end();
}

#[test]
fn properties_are_passed_on_in_order_and_left_out_for_3x() {
    let mut w = World::new(2);
    let from = w.connect(Version::V5, "from");
    let five = w.connect(Version::V5, "five");
    let three = w.connect(Version::V3_1_1, "three");
    w.subscribe(five, "#", Q1);
    w.subscribe(three, "#", Q1);
    let user = [("b", "1"), ("a", "2"), ("b", "1")];
    let properties = PublishProperties {
        content_type: Some("text"),
        response_topic: Some("reply/here"),
        correlation_data: Some(b"\0\x01"),
        message_expiry_interval: Some(60),
        user_properties: UserProperties::from(&user[..]),
        ..<_>::default()
    };
    w.publish_with(from, "a", b"x", Q1, false, properties);
    let message = w.messages(five).pop().unwrap();
    let user = user.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec();
    assert_eq!(
        message.forwarded,
        (Some("text".into()), Some("reply/here".into()), Some(vec![0, 1]), user)
    );
    assert_eq!(message.expiry, Some(60));
    assert_eq!(w.texts(three), ["x"]);
    w.end();
}

#[test]
fn the_rest_of_what_check_publish_refuses() {
    type Change = fn(&mut crate::broker::Config);
    let cases: [(Change, QoS, bool, &str, ReasonCode); 4] = [
        (|c| c.max_qos = Q0, Q1, false, "a", ReasonCode::QoSNotSupported),
        (|c| c.retain_available = false, Q0, true, "a", ReasonCode::RetainNotSupported),
        (|_| (), Q0, false, "a/#", ReasonCode::TopicNameInvalid),
        (|c| c.max_topic_levels = 2, Q0, false, "a/b/c", ReasonCode::TopicNameInvalid),
    ];
    for (change, qos, retain, topic, reason) in cases {
        let mut w = World::with(1, change);
        let c = w.connect(Version::V5, "c");
        w.publish_with(c, topic, b"", qos, retain, <_>::default());
        assert_eq!(w.got(c), [Got::Disconnect(reason)]);
        assert!(w.is_closed(c));
        w.end();
    }
}

#[test]
fn nobody_publishes_in_the_brokers_name() {
    let mut w = World::new(1);
    let c = w.connect(Version::V5, "c");
    w.subscribe(c, "$SYS/#", Q2);
    w.publish(c, "$SYS/broker/version", b"mine", Q0);
    w.publish(c, "$SYS/broker/version", b"mine", Q1);
    w.peers[c].acknowledges = false;
    w.publish(c, "$SYS/broker/version", b"mine", Q2);
    let got = w.got(c);
    assert!(matches!(
        got[..],
        [
            Got::Ack(AckKind::Puback, _, ReasonCode::NotAuthorized),
            Got::Ack(AckKind::Pubrec, _, ReasonCode::NotAuthorized)
        ]
    ));
    assert_eq!(w.dropped(crate::stats::DropReason::NotAuthorized), 3);
    assert_eq!(w.totals().acl_refused, 3);
    w.end();
}

#[test]
fn a_payload_that_is_not_the_text_it_claims_to_be_is_refused_on_demand() {
    let mut w = World::with(1, |c| c.validate_payload_format = true);
    let c = w.connect(Version::V5, "c");
    w.subscribe(c, "a", Q0);
    let text = PublishProperties { payload_format_indicator: Some(true), ..<_>::default() };
    w.publish_with(c, "a", &[0xFF], Q1, false, text);
    let got = w.got(c);
    assert!(matches!(got[..], [Got::Ack(AckKind::Puback, _, ReasonCode::PayloadFormatInvalid)]));
    assert_eq!(w.dropped(crate::stats::DropReason::PayloadFormat), 1);
    w.end();
}
