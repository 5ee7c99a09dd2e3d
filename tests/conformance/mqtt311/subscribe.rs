//! 3.8: SUBSCRIBE.

use super::*;
use crate::support::ReasonCode;

#[test]
fn mqtt311_3_8_3_1_a_filter_that_is_not_text_closes_the_connection() {
    let server = Server::start(&[]);
    closed(&server, &packet(0x82, &[b"\0\x01", &field(b"a/\xff"), b"\0"]));
    closed(&server, &packet(0x82, &[b"\0\x01", &field(b"a"), b"\0", &field(b"\xc3"), b"\0"]));
    let mut client = server.connect(V3, "client");
    let request = packet(0x82, &[b"\0\x01", &field("ä".as_bytes()), b"\0"]);
    exchange(&mut client, &request, b"\x90\x03\0\x01\0");
}

#[test]
fn mqtt311_3_8_3_3_a_subscribe_without_a_filter_closes_the_connection() {
    let server = Server::start(&[]);
    for bytes in
        [&b"\x82\x02\0\x01"[..], b"\x82\0", b"\x82\x05\0\x01\0\x01t", b"\x82\x04\0\x01\0\x01"]
    {
        closed(&server, bytes);
    }
}

#[test]
fn mqtt311_3_8_3_4_reserved_bits_and_qos_3_close_the_connection() {
    let server = Server::start(&[]);
    for options in [3, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x81, 0xff] {
        closed(&server, &packet(0x82, &[b"\0\x01\0\x01t", &[options]]));
        closed(&server, &packet(0x82, &[b"\0\x01\0\x01s\0\0\x01t", &[options]]));
    }
}

/// Shows: MQTT311-3.8.4-2
#[test]
fn mqtt311_3_8_4_1_every_subscribe_is_answered() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    for id in [b"\0\x07", b"\0\x07", b"\xff\xff", b"\0\x01"] {
        exchange(&mut client, &packet(0x82, &[id, b"\0\x01t\x01"]), &packet(0x90, &[id, b"\x01"]));
    }
    // Also those that come while others are under way.
    let two = b"\x82\x06\0\x01\0\x01t\0\x82\x06\0\x02\0\x01u\x02";
    exchange(&mut client, two, b"\x90\x03\0\x01\0\x90\x03\0\x02\x02");
}

#[test]
fn mqtt311_3_8_4_3_the_same_filter_replaces_the_subscription() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    publisher.retain("t", "retained");
    for filter in ["t", "+", "#"] {
        let mut client = server.connect(V3, "client");
        for qos in [Q2, Q0, Q1] {
            client.subscribe(filter, qos);
            let message = client.take_message("t", "retained");
            assert_eq!((message.retain, message.qos), (true, qos.min(Q1)), "{filter}");
            publisher.publish("t", "x", Q2);
            assert_eq!(client.take_message("t", "x").qos, qos, "{filter}");
            client.expect_nothing();
        }
        // One UNSUBSCRIBE ends it.
        client.unsubscribe(&[filter]);
        publisher.publish("t", "x", Q2);
        client.expect_nothing();
    }
}

/// What is published meanwhile arrives, and once.
///
/// Shows: MQTT311-3.8.4-3
#[test]
fn subscribing_again_does_not_interrupt_the_flow() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = server.connect(V3, "client");
    client.subscribe("t", Q1);
    let subscribe = b"\x82\x06\0\x01\0\x01t\x01";
    let mut expected = Vec::new();
    for n in 0..30 {
        client.send_raw(subscribe);
        let text = n.to_string();
        publisher.publish("t", &text, Q1);
        expected.push(text);
    }
    let found: Vec<_> = client.drain().iter().map(|m| m.text().to_owned()).collect();
    assert_eq!(found, expected);
}

/// Shows: MQTT311-3.8.4-5, MQTT311-3.9.3-1
#[test]
fn mqtt311_3_8_4_4_many_filters_are_as_many_subscriptions_with_one_answer() {
    let server = Server::start(&["--max-qos=1"]);
    let mut client = server.connect(V3, "client");
    let filters = [("a", Q0), ("b/+", Q1), ("c", Q2), ("a", Q1)];
    let filters = filters.map(|(filter, qos)| (filter, SubscriptionOptions::new(qos)));
    let id = client.send_subscribe(&filters, 0);
    // The highest QoS that there is was granted, not the one that was asked for.
    let granted = [Q0, Q1, Q1, Q1].map(ReasonCode::granted);
    assert_eq!(client.expect_suback(id), granted);
    let mut publisher = server.connect(V3, "publisher");
    for topic in ["a", "b/1", "c"] {
        publisher.publish(topic, "", Q1);
        assert_eq!(client.take_message(topic, "").qos, Q1);
    }
    client.expect_nothing();
}

#[test]
fn mqtt311_3_8_4_6_a_message_comes_at_the_lower_qos() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut clients: Vec<_> = [Q0, Q1, Q2]
        .map(|granted| {
            let mut client = server.connect(V3, &format!("client-{granted}"));
            assert_eq!(client.subscribe("t", granted), ReasonCode::granted(granted));
            (granted, client)
        })
        .into();
    for qos in [Q0, Q1, Q2] {
        publisher.publish("t", "x", qos);
        for (granted, client) in &mut clients {
            assert_eq!(client.take_message("t", "x").qos, qos.min(*granted));
            client.expect_nothing();
        }
    }
}
