//! Sessions: resumed, taken over, expired.

use super::{peer::Got, world::*};
use crate::{
    codec::*,
    stats::{CloseReason, DropReason},
};

#[test]
fn what_was_missed_is_sent_in_order_and_what_was_in_flight_again_with_dup() {
    let mut w = World::with(1, |c| c.max_inflight = 3);
    let from = w.connect(Version::V5, "from");
    let to = w.connected(&staying(Version::V5, "to"));
    w.subscribe(to, "#", Q2);
    w.peers[to].acknowledges = false;
    for (text, qos) in [("1", Q1), ("2", Q2), ("3", Q2), ("4", Q1)] {
        w.publish(from, "a", text.as_bytes(), qos);
    }
    let before = w.messages(to);
    assert_eq!(before.len(), 3);
    w.ack(to, AckKind::Pubrec, before[1].id);
    w.cut(to);
    w.publish(from, "a", b"5", Q2);
    w.publish(from, "a", b"never", Q0);

    let (to, present) = w.resumed(&staying(Version::V5, "to"));
    assert!(present);
    let got = w.got(to);
    // Behind these come PUBRELs, for the client answers by itself now.
    let seen: Vec<_> = got[..5]
        .iter()
        .map(|got| match got {
            Got::Publish(m) => (m.text().to_owned(), m.id, m.dup),
            Got::Ack(AckKind::Pubrel, id, _) => ("pubrel".to_owned(), *id, false),
            other => panic!("{other:?}"),
        })
        .collect();
    let id = |n: usize| before[n].id;
    assert_eq!(
        seen,
        [
            ("1".into(), id(0), true),
            ("pubrel".into(), id(1), false),
            ("3".into(), id(2), true),
            ("4".into(), id(2) + 1, false),
            ("5".into(), id(2) + 2, false),
        ]
    );
    assert_eq!(w.dropped(DropReason::Offline), 1);
    assert_eq!(w.totals().sessions_resumed, 1);
    assert_eq!(w.totals().publish_resent, 2);
    w.end();
}

#[test]
fn qos_0_messages_that_are_queued_on_demand_keep_their_order() {
    let mut w = World::with(1, |c| (c.queue_qos0, c.max_inflight) = (true, 1));
    let from = w.connect(Version::V5, "from");
    let to = w.connected(&staying(Version::V5, "to"));
    w.subscribe(to, "#", Q1);
    w.cut(to);
    for (text, qos) in [("1", Q0), ("a", Q1), ("b", Q1), ("2", Q0)] {
        w.publish(from, "t", text.as_bytes(), qos);
    }
    let mut connect = staying(Version::V5, "to");
    connect.properties.receive_maximum = Some(1);
    let to = w.open(Version::V5);
    w.peers[to].acknowledges = false;
    w.send(to, &Packet::Connect(connect));
    w.publish(from, "t", b"3", Q0);
    // [MQTT-4.6.0-6]: 3 must not come before 2, which waits for b, which waits for a.
    w.peers[to].acknowledges = true;
    let first = w.messages(to).into_iter().find(|m| m.qos == 1).unwrap();
    assert_eq!(first.text(), "a");
    w.ack(to, AckKind::Puback, first.id);
    let rest = w.messages(to);
    let rest: Vec<_> = rest.iter().filter(|m| m.qos == 0).map(|m| m.text()).collect();
    assert_eq!(rest, ["2", "3"]);
    w.end();
}

#[test]
fn a_clean_start_ends_the_session_before_it() {
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        let mut w = World::new(1);
        let from = w.connect(Version::V5, "from");
        let to = w.connected(&staying(version, "to"));
        w.subscribe(to, "a", Q1);
        w.cut(to);
        w.publish(from, "a", b"x", Q1);
        assert_eq!((w.totals().queued_messages, w.totals().sessions), (1, 2));
        assert!(w.totals().queued_bytes > 0);
        let (to, present) = w.resumed(&hello(version, "to"));
        assert!(!present);
        w.publish(from, "a", b"y", Q1);
        assert!(w.messages(to).is_empty());
        assert_eq!(w.dropped(DropReason::SessionEnded), 1);
        w.end();
    }
}

#[test]
fn a_new_connection_takes_the_session_over() {
    let mut w = World::new(2);
    for version in [Version::V3_1_1, Version::V5] {
        let old = w.connected(&staying(version, "c"));
        w.subscribe(old, "a", Q1);
        w.peers[old].acknowledges = false;
        w.publish(old, "a", b"mine", Q1);
        w.got(old);
        w.accepts_on = 1;
        let (new, present) = w.resumed(&staying(version, "c"));
        assert!(present && w.is_closed(old));
        let told: &[Got] = match version {
            Version::V5 => &[Got::Disconnect(ReasonCode::SessionTakenOver)],
            _ => &[],
        };
        assert_eq!(w.got(old), told);
        let again = w.messages(new);
        assert_eq!((again.len(), again[0].dup), (1, true));
        w.disconnect(new);
    }
    assert_eq!(w.closed(CloseReason::TakenOver), 2);
    assert_eq!(w.totals().sessions_taken_over, 2);
    w.end();
}

#[test]
fn the_old_connection_of_a_taken_over_session_can_do_no_harm() {
    let mut w = World::new(1);
    let old = w.connected(&staying(Version::V5, "c"));
    w.peers[old].lingers = true;
    let new = w.connected(&staying(Version::V5, "c"));
    w.subscribe(new, "a", Q1);
    w.publish(old, "a", b"ghost", Q1);
    w.disconnect(old);
    w.cut(old);
    assert!(w.messages(new).is_empty());
    w.publish(new, "a", b"me", Q1);
    assert_eq!(w.texts(new), ["me"]);
    assert_eq!(w.totals().clients_connected, 1);
    w.end();
}

#[test]
fn a_returning_client_is_let_in_at_the_cap_on_connections() {
    let mut w = World::with(1, |c| c.max_connections = 1);
    w.connected(&staying(Version::V5, "c"));
    let other = w.connect_with(&hello(Version::V5, "other"));
    let got = w.got(other);
    assert!(matches!(got[..], [Got::Connack { reason: ReasonCode::QuotaExceeded, .. }]));
    let (_, present) = w.resumed(&staying(Version::V5, "c"));
    assert!(present, "it takes the place of its own old connection");
    w.end();
}

/// Shows: MQTT5-4.1.0-1, MQTT5-4.1.0-2
#[test]
fn a_session_ends_when_its_expiry_interval_has_passed() {
    let mut w = World::new(1);
    let mut connect = staying(Version::V5, "c");
    connect.properties.session_expiry_interval = Some(10);
    let c = w.connected(&connect);
    w.subscribe(c, "a", Q1);
    w.cut(c);
    w.advance(9_800);
    assert_eq!(w.totals().sessions, 1);
    let (c, present) = w.resumed(&connect);
    assert!(present);
    w.advance(60_000);
    assert_eq!(w.totals().sessions, 1, "a connected session does not expire");
    w.disconnect(c);
    w.advance(10_300);
    assert_eq!((w.totals().sessions, w.totals().sessions_expired), (0, 1));
    assert!(!w.resumed(&connect).1);
    w.end();
}

#[test]
fn disconnect_changes_the_expiry_interval_but_not_from_zero() {
    let mut w = World::new(1);
    let c = w.connected(&staying(Version::V5, "c"));
    let go = |seconds| {
        Packet::Disconnect(Disconnect { session_expiry_interval: Some(seconds), ..<_>::default() })
    };
    w.send(c, &go(0));
    assert_eq!(w.totals().sessions, 0);
    let c = w.connect(Version::V5, "c");
    w.send(c, &go(5));
    assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::ProtocolError)]);
    w.end();
}

/// What CONNECT said decides, not what the broker made of it: MQTT 5.0 section 3.14.2.2.2.
#[test]
fn disconnect_may_ask_for_more_than_the_broker_grants_if_connect_did() {
    let go = Packet::Disconnect(Disconnect { session_expiry_interval: Some(5), ..<_>::default() });
    let mut w = World::with(1, |c| c.max_session_expiry = 0);
    let c = w.connected(&staying(Version::V5, "c"));
    w.send(c, &go);
    assert_eq!(w.got(c), []);
    assert_eq!((w.closed(CloseReason::Disconnect), w.totals().sessions), (1, 0));
    let mut zero = staying(Version::V5, "c");
    for interval in [Some(0), None] {
        zero.properties.session_expiry_interval = interval;
        let c = w.connected(&zero);
        w.send(c, &go);
        assert_eq!(w.got(c), [Got::Disconnect(ReasonCode::ProtocolError)]);
    }
    assert_eq!(w.closed(CloseReason::ProtocolError), 2);
    w.end();
}

/// Shows: MQTT311-4.1.0-2
#[test]
fn a_session_lasts_as_long_as_its_connection_whatever_the_longest_expiry_is() {
    for clean_start in [false, true] {
        let mut w = World::with(1, |c| c.max_session_expiry = 60);
        let mut connect = hello(Version::V3_1_1, "c");
        connect.clean_start = clean_start;
        let c = w.connected(&connect);
        w.subscribe(c, "t", Q1);
        w.advance(100 * 3_600_000);
        let publisher = w.connect(Version::V3_1_1, "p");
        w.publish(publisher, "t", b"x", Q1);
        assert_eq!(w.messages(c).len(), 1);
        w.end();
    }
}

#[test]
fn a_session_that_shall_stay_for_years_stays() {
    let mut w = World::with(1, |c| c.max_session_expiry = u32::MAX);
    let mut connect = staying(Version::V5, "c");
    let year = 365 * 24 * 3_600;
    connect.properties.session_expiry_interval = Some(4 * year);
    let c = w.connected(&connect);
    w.cut(c);
    for _ in 0..47 {
        w.jump(u64::from(year) / 12 * 1_000);
        assert_eq!(w.totals().sessions, 1);
    }
    for _ in 0..3 {
        w.jump(u64::from(year) / 12 * 1_000);
    }
    assert_eq!(w.totals().sessions, 0, "and then ends");
    w.end();
}

#[test]
fn the_broker_says_what_it_grants() {
    let mut w = World::with(1, |c| {
        c.max_session_expiry = 100;
        c.server_keep_alive = Some(30);
        c.response_information = Some("reply".into());
        c.max_qos = Q1;
    });
    let mut connect = staying(Version::V5, "");
    connect.properties.request_response_information = true;
    let c = w.connect_with(&connect);
    let got = w.got(c);
    connack(&got[0], |properties| {
        assert_eq!(properties.session_expiry_interval, Some(100));
        assert_eq!(properties.server_keep_alive, Some(30));
        assert_eq!(properties.maximum_qos, Q1);
        assert_eq!(properties.receive_maximum, Some(100));
        let id = properties.assigned_client_identifier.unwrap();
        assert_eq!(properties.response_information, Some(&*format!("reply/{id}")));
    });
    w.end();
}

#[test]
fn a_client_need_not_wait_for_connack_even_if_its_home_is_elsewhere() {
    let mut w = World::new(2);
    let c = w.open(Version::V3_1_1);
    let id = w.id_on(1, "c");
    w.peers[c].send(&Packet::Connect(hello(Version::V3_1_1, &id)));
    let filters = [("a", SubscriptionOptions::new(Q1))];
    let subscribe = Subscribe {
        packet_id: PacketId::FIRST,
        subscription_id: None,
        user_properties: <_>::default(),
        filters: SubscribeFilters::from(&filters[..]),
    };
    w.peers[c].send(&Packet::Subscribe(subscribe));
    w.publish(c, "a", b"x", Q1);
    assert_eq!(w.peers[c].shard, 1);
    let got = w.got(c);
    assert!(matches!(
        got[..],
        [Got::Connack { .. }, Got::Suback(..), Got::Publish(_), Got::Ack(AckKind::Puback, ..)]
    ));
    let totals = w.totals();
    assert_eq!((totals.connections_open, totals.packets_received), (1, 4));
    w.end();
}

#[test]
fn an_assigned_identifier_stays_on_the_shard_that_accepted() {
    let mut w = World::new(4);
    for shard in 0..4 {
        w.accepts_on = shard;
        for version in [Version::V3_1_1, Version::V5] {
            let c = w.connect(version, "");
            assert_eq!(w.peers[c].shard, shard);
        }
    }
    w.end();
}

#[test]
fn clients_without_an_identifier_that_none_can_be_assigned_to() {
    // By hand, for the codec does not write the first two.
    let cases: [(Version, bool, &[u8]); 3] = [
        (Version::V3_1, true, b"\x10\x0E\0\x06MQIsdp\x03\x02\0\0\0\0"),
        (Version::V3_1_1, true, b"\x10\x0C\0\x04MQTT\x04\0\0\0\0\0"),
        (Version::V5, false, b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0"),
    ];
    for (version, allowed, bytes) in cases {
        let mut w = World::with(1, |c| c.allow_empty_client_id = allowed);
        let c = w.open(version);
        w.send_bytes(c, bytes);
        let got = w.got(c);
        let refused = ReasonCode::ClientIdentifierNotValid;
        assert!(
            matches!(got[..], [Got::Connack { present: false, reason, .. }] if reason == refused)
        );
        assert!(w.is_closed(c));
        assert_eq!(w.closed(CloseReason::ClientIdInvalid), 1);
        w.end();
    }
}

#[test]
fn the_queue_of_an_absent_client_is_bounded_in_messages_and_bytes() {
    for drop_oldest in [true, false] {
        let mut w = World::with(1, |c| {
            (c.queue.messages, c.queue.bytes, c.queue.drop_oldest) = (3, 4_000, drop_oldest);
        });
        let from = w.connect(Version::V5, "from");
        let to = w.connected(&staying(Version::V5, "to"));
        w.subscribe(to, "#", Q1);
        w.cut(to);
        for n in 0..5 {
            w.publish(from, "a", &[b'0' + n], Q1);
        }
        assert_eq!(w.dropped(DropReason::QueueFull), 2);
        // What could never fit costs nothing that is there.
        w.publish(from, "a", &[b'x'; 5_000], Q1);
        assert_eq!(w.dropped(DropReason::QueueFull), 3);
        assert_eq!(w.totals().queued_messages, 3);
        let to = w.connected(&staying(Version::V5, "to"));
        let kept: [&str; 3] = if drop_oldest { ["2", "3", "4"] } else { ["0", "1", "2"] };
        assert_eq!(w.texts(to), kept);
        w.end();
    }
}

/// Shows: MQTT5-3.3.2-5, MQTT5-3.3.2-6
#[test]
fn messages_expire_in_the_queue_and_count_down() {
    let mut w = World::new(1);
    let from = w.connect(Version::V5, "from");
    let to = w.connected(&staying(Version::V5, "to"));
    w.subscribe(to, "#", Q1);
    w.cut(to);
    for seconds in [5, 60] {
        let properties =
            PublishProperties { message_expiry_interval: Some(seconds), ..<_>::default() };
        w.publish_with(from, "a", seconds.to_string().as_bytes(), Q1, false, properties);
    }
    w.advance(20_000);
    let to = w.connected(&staying(Version::V5, "to"));
    let messages = w.messages(to);
    assert_eq!((messages.len(), messages[0].expiry), (1, Some(40)));
    assert_eq!(w.dropped(DropReason::Expired), 1);
    w.end();
}

#[test]
fn sessions_are_capped_over_all_shards() {
    let mut w = World::with(2, |c| c.max_sessions = 2);
    let (a, b) = (w.id_on(0, "a"), w.id_on(1, "b"));
    let first = w.connected(&staying(Version::V5, &a));
    w.cut(first);
    let second = w.connected(&staying(Version::V3_1_1, &b));
    for (version, reason) in
        [(Version::V5, ReasonCode::QuotaExceeded), (Version::V3_1_1, ReasonCode::ServerUnavailable)]
    {
        let refused = w.connect_with(&hello(version, "c"));
        let got = w.got(refused);
        assert!(matches!(got[..], [Got::Connack { reason: r, .. }] if r == reason), "{got:?}");
        assert!(w.is_closed(refused));
    }
    assert_eq!(w.closed(CloseReason::QuotaExceeded), 2);
    // A client that is known is not one more: back, taken over, or with a clean start.
    assert!(w.resumed(&staying(Version::V5, &a)).1);
    let taken = w.connected(&hello(Version::V3_1_1, &b));
    assert!(w.is_closed(second));
    w.disconnect(taken);
    let new = w.connect(Version::V5, "c");
    assert_eq!(w.totals().sessions, 2);
    w.disconnect(new);
    w.end();
}

#[test]
fn the_queues_of_all_sessions_are_capped_together() {
    for drop_oldest in [false, true] {
        let mut w = World::with(1, |c| {
            c.max_queued_total_bytes = 10_000;
            c.queue.drop_oldest = drop_oldest;
        });
        for id in ["a", "b", "c"] {
            let c = w.connected(&staying(Version::V5, id));
            w.subscribe(c, id, Q1);
            w.cut(c);
        }
        let from = w.connect(Version::V5, "from");
        for n in 0..6 {
            w.publish(from, "a", format!("{n:0900}").as_bytes(), Q1);
            w.publish(from, "b", format!("{n:0900}").as_bytes(), Q1);
        }
        w.publish(from, "c", &[b'c'; 900], Q1);
        assert_eq!((w.totals().queued_messages, w.dropped(DropReason::QueuesFull)), (10, 3));
        assert_eq!(w.dropped(DropReason::QueueFull), 0);
        assert!(w.totals().queued_bytes <= 10_000);
        let a = w.connected(&staying(Version::V5, "a"));
        let kept: Vec<u32> = w.texts(a).iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(kept, if drop_oldest { [1, 2, 3, 4, 5] } else { [0, 1, 2, 3, 4] });
        w.publish(from, "c", &[b'c'; 900], Q1);
        assert_eq!(w.dropped(DropReason::QueuesFull), 3, "there is room again");
        w.end();
    }
}

#[test]
fn a_malformed_connect_is_answered_from_mqtt_5_on_only() {
    for (version, told) in [(Version::V3_1_1, false), (Version::V5, true)] {
        let mut w = World::new(1);
        let mut bytes = Vec::new();
        Packet::Connect(hello(version, "c")).encode(version, &mut bytes).unwrap();
        bytes[9] |= 1; // the reserved Connect Flag
        let c = w.open(version);
        w.send_bytes(c, &bytes);
        let got = w.got(c);
        let refused = matches!(got[..], [Got::Connack { reason: ReasonCode::MalformedPacket, .. }]);
        assert_eq!((refused, got.len()), (told, usize::from(told)), "{got:?}");
        assert!(w.is_closed(c));
        assert_eq!(w.closed(CloseReason::MalformedPacket), 1);
        w.end();
    }
    // A protocol level that does not exist is answered, as MQTT 5 has it.
    let mut w = World::new(1);
    let c = w.open(Version::V5);
    w.send_bytes(c, &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 9, 2, 0, 0, 0, 0]);
    let got = w.got(c);
    assert!(
        matches!(got[..], [Got::Connack { reason: ReasonCode::UnsupportedProtocolVersion, .. }]),
        "{got:?}"
    );
    w.end();
}

#[test]
fn a_client_may_not_disconnect_in_the_servers_words() {
    use ReasonCode as R;
    let moved = Disconnect { server_reference: Some("elsewhere"), ..<_>::default() };
    for (disconnect, allowed) in [
        (Disconnect::new(R::SessionTakenOver), false),
        (Disconnect::new(R::UseAnotherServer), false),
        (moved, false),
        (Disconnect::new(R::DisconnectWithWillMessage), true),
        (Disconnect::new(R::ReceiveMaximumExceeded), true),
        (Disconnect::new(R::PayloadFormatInvalid), true),
    ] {
        let mut w = World::new(1);
        let c = w.connect(Version::V5, "c");
        w.send(c, &Packet::Disconnect(disconnect));
        assert!(w.is_closed(c));
        let expected: &[Got] = if allowed { &[] } else { &[Got::Disconnect(R::ProtocolError)] };
        assert_eq!(w.got(c), expected, "{disconnect:?}");
        w.end();
    }
}

/// A connection is taken over and closes in the same turn, and a new one gets its number: what was
/// to be done with the old one is not done with the new one.
#[test]
fn effects_do_not_reach_a_connection_that_has_the_number_of_an_old_one() {
    let mut w = World::new(1);
    let old = w.connect(Version::V3_1_1, "twice");
    let old_key = w.peers[old].key.unwrap();
    let broker = &mut w.brokers[0];
    let address = std::net::SocketAddr::from(([10, 0, 0, 9], 9));
    let new_key = broker.on_accepted(w.now, address);
    let mut connect = Vec::new();
    let packet = Connect {
        version: Version::V3_1_1,
        clean_start: true,
        keep_alive: 0,
        client_id: "twice",
        will: None,
        user_name: None,
        password: None,
        properties: Default::default(),
    };
    Packet::Connect(packet).encode(Version::V3_1_1, &mut connect).unwrap();
    broker.on_bytes(w.now, new_key, &connect);
    broker.on_closed(w.now, old_key, CloseReason::PeerClosed);
    w.peers[old].key = None;
    let third_key = broker.on_accepted(w.now, address);
    assert_eq!(third_key, old_key, "the number is used again");
    assert_eq!(broker.take_effects(), []);
    for key in [new_key, third_key] {
        broker.on_closed(w.now, key, CloseReason::PeerClosed);
    }
    while broker.next_to_write().is_some() {}
    w.end();
}

/// Only a message that was never sent can expire.
#[test]
fn mqtt5_4_3_3_7_what_was_sent_does_not_expire() {
    for qos in [Q1, Q2] {
        let mut w = World::with(1, |c| c.max_inflight = 1);
        let from = w.connect(Version::V5, "from");
        let to = w.connected(&staying(Version::V5, "to"));
        w.subscribe(to, "#", Q2);
        w.peers[to].acknowledges = false;
        for text in ["sent", "waits"] {
            let properties =
                PublishProperties { message_expiry_interval: Some(5), ..<_>::default() };
            w.publish_with(from, "a", text.as_bytes(), qos, false, properties);
        }
        assert_eq!(w.texts(to), ["sent"]);
        w.cut(to);
        w.advance(20_000);
        let to = w.connected(&staying(Version::V5, "to"));
        let messages = w.messages(to);
        assert_eq!(messages.len(), 1, "the other has expired");
        assert_eq!((messages[0].text(), messages[0].dup), ("sent", true));
        w.end();
    }
}

/// The exchange with the publisher does not care for whom the message was.
#[test]
fn mqtt5_4_3_3_13_the_exchange_goes_on_when_the_message_has_expired() {
    let mut w = World::new(1);
    let from = w.connect(Version::V5, "from");
    let to = w.connected(&staying(Version::V5, "to"));
    w.subscribe(to, "#", Q2);
    w.cut(to);
    w.peers[from].acknowledges = false;
    let properties = PublishProperties { message_expiry_interval: Some(5), ..<_>::default() };
    w.publish_with(from, "a", b"x", Q2, false, properties);
    let got = w.got(from);
    let [Got::Ack(AckKind::Pubrec, id, ReasonCode::Success)] = got[..] else { panic!("{got:?}") };
    w.advance(20_000);
    w.ack(from, AckKind::Pubrel, id);
    assert_eq!(w.got(from), [Got::Ack(AckKind::Pubcomp, id, ReasonCode::Success)]);
    let to = w.connected(&staying(Version::V5, "to"));
    assert!(w.messages(to).is_empty());
    w.end();
}

/// However long it takes.
#[test]
fn mqtt5_4_4_0_1_nothing_is_sent_again_on_the_same_connection() {
    let mut w = World::new(1);
    let from = w.connect(Version::V5, "from");
    let to = w.connected(&staying(Version::V5, "to"));
    w.subscribe(to, "#", Q2);
    w.peers[to].acknowledges = false;
    for qos in [Q1, Q2, Q2] {
        w.publish(from, "a", b"x", qos);
    }
    let sent = w.messages(to);
    w.ack(to, AckKind::Pubrec, sent[2].id);
    assert_eq!(w.got(to).len(), 1, "its PUBREL");
    w.advance(3_600_000);
    assert_eq!(w.got(to), []);
    w.end();
}
