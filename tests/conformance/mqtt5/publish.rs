//! 3.3.1, the fixed header of PUBLISH: DUP, QoS, RETAIN; and the rest of 3.3 that is not about
//! properties.

use std::collections::BTreeMap;

use ringmq::codec::AckKind;

use super::{EVERY_QOS, V5, accepted, refused, subscriber};
use crate::support::{
    Client, Packet, QoS, ReasonCode, RetainHandling, Server, SubscriptionOptions, over_shards,
};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;

/// Shows: MQTT5-4.4.0-1
#[test]
fn mqtt5_3_3_1_1_dup_is_set_when_a_message_is_sent_again() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let mut client = server.connect_persistent(V5, "device");
        client.subscribe("t", QoS::ExactlyOnce);
        let mut sent = Vec::new();
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publisher.publish("t", "x", qos);
            let message = client.expect_message("t", "x");
            assert!(!message.dup);
            sent.push((message.packet_id, message.qos));
        }
        client.cut();
        let mut client = server.connect_persistent(V5, "device");
        for (packet_id, qos) in sent {
            let message = client.take_message("t", "x");
            assert!(message.dup);
            assert_eq!((message.packet_id, message.qos), (packet_id, qos));
        }
        client.expect_nothing();
    });
}

/// Shows: MQTT5-4.3.1-1
#[test]
fn mqtt5_3_3_1_2_dup_is_unset_with_qos_0() {
    let server = Server::start(&[]);
    refused(&server, b"\x38\x04\0\x01t\0", MALFORMED);
    let mut client = subscriber(&server, "t");
    client.send_raw(b"\x30\x05\0\x01t\0x");
    let message = client.expect_message("t", "x");
    assert!(!message.dup && message.qos == QoS::AtMostOnce);
}

#[test]
fn mqtt5_3_3_1_3_dup_does_not_come_from_the_publisher() {
    over_shards(&[], |server| {
        let mut client = subscriber(server, "t");
        let mut publisher = server.connect(V5, "publisher");
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publisher.publish_with("t", b"x", qos, |publish| publish.dup = true);
            assert!(!client.take_message("t", "x").dup);
        }
        // Nor where the subscription lowers the QoS to 0, which has no DUP.
        client.subscribe("t", QoS::AtMostOnce);
        publisher.publish_with("t", b"x", QoS::AtLeastOnce, |publish| publish.dup = true);
        assert!(!client.expect_message("t", "x").dup);
    });
}

#[test]
fn mqtt5_3_3_1_4_qos_3_is_malformed() {
    let server = Server::start(&[]);
    for header in [0x36, 0x37, 0x3e, 0x3f] {
        refused(&server, &[header, 6, 0, 1, b't', 0, 1, 0], MALFORMED);
    }
    accepted(&server, b"\x3c\x06\0\x01t\0\x01\0");
}

/// The retained messages that a new subscription to this filter gives, by topic.
fn retained(server: &Server, filter: &str) -> BTreeMap<String, (String, QoS)> {
    let mut client = server.connect(V5, "late");
    client.subscribe(filter, QoS::ExactlyOnce);
    let messages = server.with_what_is_retained(&mut client).into_iter().map(|message| {
        assert!(message.retain);
        (message.topic.clone(), (message.text().to_owned(), message.qos))
    });
    messages.collect()
}

#[test]
fn mqtt5_3_3_1_5_a_retained_message_replaces_the_one_before_with_its_qos() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for (n, qos) in EVERY_QOS.into_iter().chain(EVERY_QOS).enumerate() {
            let payload = n.to_string();
            publisher.publish_with("t", payload.as_bytes(), qos, |publish| publish.retain = true);
            publisher.expect_nothing();
            assert_eq!(retained(server, "t"), BTreeMap::from([("t".into(), (payload, qos))]));
        }
    });
}

/// Shows: MQTT5-3.3.1-7
#[test]
fn mqtt5_3_3_1_6_an_empty_retained_message_is_delivered_and_clears() {
    over_shards(&[], |server| {
        let mut client = subscriber(server, "t");
        let mut publisher = server.connect(V5, "publisher");
        publisher.retain("t", "x");
        client.take_message("t", "x");
        for _ in 0..2 {
            publisher.retain("t", "");
            client.take_message("t", "");
            assert!(retained(server, "t").is_empty());
        }
    });
}

#[test]
fn mqtt5_3_3_1_8_a_message_that_is_not_retained_leaves_the_retained_one_alone() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        publisher.publish("t", "passes", QoS::AtLeastOnce);
        assert!(retained(server, "#").is_empty());
        publisher.retain("t", "stays");
        publisher.publish("t", "passes", QoS::AtLeastOnce);
        publisher.publish("t", "", QoS::AtLeastOnce);
        let stays = BTreeMap::from([("t".into(), ("stays".into(), QoS::AtLeastOnce))]);
        assert_eq!(retained(server, "#"), stays);
    });
}

fn with_retain_handling(handling: RetainHandling) -> SubscriptionOptions {
    let retain_handling = handling;
    SubscriptionOptions { retain_handling, ..SubscriptionOptions::new(QoS::AtLeastOnce) }
}

fn retain_some(server: &Server) -> Client {
    let mut client = server.connect(V5, "client");
    for topic in ["a", "a/b", "c"] {
        client.retain(topic, topic);
    }
    client
}

/// Shows: MQTT5-3.8.4-4
#[test]
fn mqtt5_3_3_1_9_retain_handling_0_sends_what_is_retained_each_time() {
    over_shards(&[], |server| {
        let mut client = retain_some(server);
        for _ in 0..2 {
            client.subscribe_with("a/#", with_retain_handling(RetainHandling::SendAtSubscribe), 0);
            let messages = server.with_what_is_retained(&mut client);
            let mut topics: Vec<_> = messages.into_iter().map(|message| message.topic).collect();
            topics.sort();
            assert_eq!(topics, ["a", "a/b"]);
        }
    });
}

#[test]
fn mqtt5_3_3_1_10_retain_handling_1_sends_what_is_retained_for_a_new_subscription() {
    over_shards(&[], |server| {
        let mut client = retain_some(server);
        let options = with_retain_handling(RetainHandling::SendAtNewSubscribe);
        client.subscribe_with("a/#", options, 0);
        assert_eq!(server.with_what_is_retained(&mut client).len(), 2);
        client.subscribe_with("a/#", options, 0);
        assert!(server.with_what_is_retained(&mut client).is_empty());
        // It is the filter that must be new.
        client.subscribe_with("a", options, 0);
        assert_eq!(server.with_what_is_retained(&mut client).len(), 1);
        client.unsubscribe(&["a/#"]);
        client.subscribe_with("a/#", options, 0);
        assert_eq!(server.with_what_is_retained(&mut client).len(), 2);
    });
}

#[test]
fn mqtt5_3_3_1_11_retain_handling_2_sends_nothing_that_is_retained() {
    over_shards(&[], |server| {
        let mut client = retain_some(server);
        client.subscribe_with("a/#", with_retain_handling(RetainHandling::DoNotSend), 0);
        assert!(server.with_what_is_retained(&mut client).is_empty());
        client.publish("a", "live", QoS::AtMostOnce);
        client.expect_message("a", "live");
    });
}

/// Shows: MQTT5-3.3.1-13
#[test]
fn mqtt5_3_3_1_12_retain_is_passed_on_only_to_who_wants_it() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for retain_as_published in [false, true] {
            for qos in EVERY_QOS {
                let mut client = server.connect(V5, "client");
                let options = SubscriptionOptions {
                    retain_as_published,
                    retain_handling: RetainHandling::DoNotSend,
                    ..SubscriptionOptions::new(qos)
                };
                client.subscribe_with("t", options, 0);
                for retain in [false, true] {
                    publisher.publish_with("t", b"x", qos, |publish| publish.retain = retain);
                    let message = client.take_message("t", "x");
                    assert_eq!(message.retain, retain && retain_as_published);
                }
                publisher.expect_nothing();
            }
        }
        // One of several subscriptions that match is enough.
        let mut client = server.connect(V5, "client");
        let plain = with_retain_handling(RetainHandling::DoNotSend);
        let kept = SubscriptionOptions { retain_as_published: true, ..plain };
        for (filter, options) in [("+", plain), ("u", kept), ("#", plain)] {
            client.subscribe_with(filter, options, 0);
        }
        publisher.retain("u", "x");
        assert!(client.expect_message("u", "x").retain);
    });
}

/// Shows: MQTT5-4.3.2-4, MQTT5-4.3.3-8
#[test]
fn mqtt5_3_3_4_1_each_qos_has_its_answer() {
    let server = Server::start(&[]);
    let mut client = server.connect(V5, "client");
    client.send_publish("t", "x", QoS::AtMostOnce);
    client.expect_nothing();
    let id = client.send_publish("t", "x", QoS::AtLeastOnce);
    client.expect_ack(AckKind::Puback, id);
    let id = client.send_publish("t", "x", QoS::ExactlyOnce);
    client.expect_ack(AckKind::Pubrec, id);
    client.expect_nothing();
}

/// One copy, whatever the order of the subscriptions.
///
/// Shows: MQTT5-3.3.4-3, MQTT5-3.3.4-4
#[test]
fn mqtt5_3_3_4_2_overlapping_subscriptions_give_their_highest_qos_and_all_identifiers() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let filters =
            [("t/a", QoS::AtMostOnce, 3), ("t/+", QoS::ExactlyOnce, 0), ("#", QoS::AtLeastOnce, 9)];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let mut client = server.connect(V5, "client");
            for n in order {
                let (filter, qos, id) = filters[n];
                client.subscribe_with(filter, SubscriptionOptions::new(qos), id);
            }
            for published in EVERY_QOS {
                publisher.publish("t/a", "x", published);
                publisher.expect_nothing();
                let mut message = client.take_message("t/a", "x");
                assert_eq!(message.qos, published);
                message.subscription_ids.sort_unstable();
                assert_eq!(message.subscription_ids, [3, 9]);
                client.expect_nothing();
            }
            publisher.publish("t/b", "x", QoS::ExactlyOnce);
            let message = client.take_message("t/b", "x");
            assert_eq!((message.qos, &*message.subscription_ids), (QoS::ExactlyOnce, &[9][..]));
        }
    });
}

#[test]
fn mqtt5_3_3_4_6_a_subscription_identifier_from_a_client_is_a_protocol_error() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "#");
    refused(&server, b"\x30\x07\0\x01t\x02\x0b\x01x", ReasonCode::ProtocolError);
    watcher.expect_nothing();
    accepted(&server, b"\x30\x05\0\x01t\0x");
    watcher.expect_message("t", "x");
}

/// Shows: MQTT5-4.9.0-2
#[test]
fn mqtt5_3_3_4_7_more_than_the_servers_receive_maximum_ends_the_connection() {
    let server = Server::start(&["--receive-maximum=3"]);
    let mut client = server.connect(V5, "client");
    assert_eq!(client.connack.receive_maximum, Some(3));
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = client.send_publish("t", "x", QoS::ExactlyOnce);
        client.expect_ack(AckKind::Pubrec, id);
        ids.push(id);
    }
    // One that is complete makes room for one more; QoS 1 is acknowledged at once.
    client.ack(AckKind::Pubrel, ids[1]);
    client.expect_ack(AckKind::Pubcomp, ids[1]);
    let id = client.send_publish("t", "x", QoS::AtLeastOnce);
    client.expect_ack(AckKind::Puback, id);
    let id = client.send_publish("t", "x", QoS::ExactlyOnce);
    client.expect_ack(AckKind::Pubrec, id);
    client.send_publish("t", "x", QoS::ExactlyOnce);
    client.expect_disconnect(ReasonCode::ReceiveMaximumExceeded);
}

/// A client with this Receive Maximum, and a session that stays.
fn connect_with_window(server: &Server, receive_maximum: u16) -> Client {
    server.connect_with(V5, "device", |connect| {
        connect.clean_start = false;
        connect.properties.session_expiry_interval = Some(3_600);
        connect.properties.receive_maximum = Some(receive_maximum);
    })
}

/// Shows: MQTT5-4.9.0-1
#[test]
fn mqtt5_3_3_4_9_no_more_than_the_clients_receive_maximum_is_sent() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let mut client = connect_with_window(server, 2);
        client.subscribe("t", QoS::ExactlyOnce);
        for n in 0..6 {
            publisher.publish("t", n.to_string(), EVERY_QOS[1 + n % 2]);
        }
        let first = client.drain();
        assert_eq!(first.iter().map(|m| m.text()).collect::<Vec<_>>(), ["0", "1"]);
        // PUBREC alone makes no room, PUBCOMP does, and PUBACK, and a PUBREC that refuses.
        client.ack(AckKind::Pubrec, first[1].packet_id);
        client.expect_ack(AckKind::Pubrel, first[1].packet_id);
        client.expect_nothing();
        client.ack(AckKind::Pubcomp, first[1].packet_id);
        client.expect_message("t", "2");
        client.expect_nothing();
        client.ack(AckKind::Puback, first[0].packet_id);
        let third = client.expect_message("t", "3");
        client.expect_nothing();
        client.ack_with(AckKind::Pubrec, third.packet_id, ReasonCode::UnspecifiedError);
        client.expect_message("t", "4");
        client.expect_nothing();
        // The quota starts anew with each connection, also for what is sent again.
        client.cut();
        let mut client = connect_with_window(server, 1);
        assert_eq!(client.drain().iter().map(|m| m.text()).collect::<Vec<_>>(), ["2"]);
    });
}

/// Shows: MQTT5-4.9.0-3
#[test]
fn mqtt5_3_3_4_10_other_packets_do_not_wait_for_the_quota() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V5, "publisher");
    let mut client = connect_with_window(&server, 1);
    client.subscribe("t", QoS::ExactlyOnce);
    publisher.publish("t", "uses it up", QoS::AtLeastOnce);
    publisher.publish("t", "waits", QoS::AtLeastOnce);
    client.expect_message("t", "uses it up");
    client.expect_nothing();
    client.subscribe("u", QoS::AtMostOnce);
    publisher.publish("u", "qos 0", QoS::AtMostOnce);
    client.expect_message("u", "qos 0");
    for qos in EVERY_QOS {
        client.publish("v", "x", qos);
    }
    client.unsubscribe(&["u"]);
    client.send(&Packet::Pingreq);
    assert_eq!(client.receive().packet(), Packet::Pingresp);
}
