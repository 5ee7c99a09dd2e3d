//! 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use ringmq::codec::AckKind;

use super::{V5, accepted, leaves_out_the_reason_string, packet, refused, subscriber};
use crate::support::{Packet, QoS, ReasonCode, Server, over_shards};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;
const DELETED: ReasonCode = ReasonCode::Success;
const NONE: ReasonCode = ReasonCode::NoSubscriptionExisted;

/// An UNSUBSCRIBE without properties.
fn unsubscribe(payload: &[u8]) -> Vec<u8> {
    packet(0xa2, &[b"\0\x01\0", payload])
}

#[test]
fn mqtt5_3_10_1_1_other_flags_of_unsubscribe_are_malformed() {
    let server = Server::start(&[]);
    for flags in (0..16).filter(|flags| *flags != 2) {
        let mut other = unsubscribe(b"\0\x01t");
        other[0] = 0xa0 | flags;
        refused(&server, &other, MALFORMED);
    }
    accepted(&server, &unsubscribe(b"\0\x01t"));
}

#[test]
fn mqtt5_3_10_3_1_topic_filters_are_text() {
    let server = Server::start(&[]);
    for filter in [&b"\0\x01\xff"[..], b"\0\x01\0", b"\0\x03\xed\xa0\x80", b"\0\x05t"] {
        refused(&server, &unsubscribe(filter), MALFORMED);
    }
    refused(&server, &unsubscribe(b"\0\x01t\0\x01\xff"), MALFORMED);
    accepted(&server, &unsubscribe("\0\x02ü".as_bytes()));
}

#[test]
fn mqtt5_3_10_3_2_an_unsubscribe_without_a_filter_is_a_protocol_error() {
    let server = Server::start(&[]);
    refused(&server, &unsubscribe(b""), ReasonCode::ProtocolError);
}

#[test]
fn mqtt5_3_10_4_1_a_filter_is_compared_character_by_character() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let mut client = subscriber(server, "a/+");
        client.subscribe("a/b", QoS::AtLeastOnce);
        // Filters that match the same topics, or more, or differ by as little as can be.
        for other in ["a/#", "#", "+/+", "a/B", "a/b/", "/a/b", "a/", "a/b "] {
            assert_eq!(client.unsubscribe(&[other]), [NONE], "{other}");
        }
        assert_eq!(client.unsubscribe(&["a/+"]), [DELETED]);
        assert_eq!(client.unsubscribe(&["a/+"]), [NONE]);
        publisher.publish("a/c", "x", QoS::AtLeastOnce);
        publisher.publish("a/b", "x", QoS::ExactlyOnce);
        assert_eq!(client.take_message("a/b", "x").qos, QoS::AtLeastOnce);
        client.expect_nothing();
    });
}

#[test]
fn mqtt5_3_10_4_2_no_new_message_comes_after_unsuback() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        for qos in super::EVERY_QOS {
            let mut client = subscriber(server, "t");
            publisher.publish("t", "before", qos);
            client.take_message("t", "before");
            client.unsubscribe(&["t"]);
            publisher.publish("t", "after", qos);
            publisher.expect_nothing();
            client.expect_nothing();
        }
    });
}

#[test]
fn mqtt5_3_10_4_3_what_is_in_flight_is_completed() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let mut client = server.connect_persistent(V5, "device");
        client.subscribe("t", QoS::ExactlyOnce);
        for qos in super::EVERY_QOS {
            publisher.publish("t", "x", qos);
        }
        client.expect_message("t", "x");
        let (first, second) = (client.expect_publish(), client.expect_publish());
        client.unsubscribe(&["t"]);
        client.ack(AckKind::Pubrec, second.packet_id);
        assert_eq!(client.expect_ack(AckKind::Pubrel, second.packet_id), ReasonCode::Success);
        // Also on another connection.
        client.cut();
        let mut client = server.connect_persistent(V5, "device");
        assert_eq!(client.take_message("t", "x").packet_id, first.packet_id);
        client.expect_ack(AckKind::Pubrel, second.packet_id);
        client.ack(AckKind::Pubcomp, second.packet_id);
        client.expect_nothing();
    });
}

#[test]
fn mqtt5_3_10_4_4_every_unsubscribe_is_answered() {
    let server = Server::start(&[]);
    let mut client = subscriber(&server, "t");
    assert_eq!(client.unsubscribe(&["t"]), [DELETED]);
    assert_eq!(client.unsubscribe(&["t"]), [NONE]);
    assert_eq!(client.unsubscribe(&["never"]), [NONE]);
}

/// Shows: MQTT5-3.11.3-1
#[test]
fn mqtt5_3_10_4_6_many_filters_have_one_answer_in_order() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        for filter in ["a", "b/+", "$share/g/c", "d"] {
            client.subscribe(filter, QoS::AtMostOnce);
        }
        let filters = ["x", "b/+", "a", "a", "$share/g/c", "$share/h/c", "y"];
        let expected = [NONE, DELETED, DELETED, NONE, DELETED, NONE, NONE];
        assert_eq!(client.unsubscribe(&filters), expected);
        for topic in ["a", "b/x", "c", "d"] {
            client.publish(topic, "x", QoS::AtMostOnce);
        }
        client.expect_message("d", "x");
        client.expect_nothing();
    });
}

#[test]
fn mqtt5_3_11_2_1_unsuback_leaves_out_a_reason_string_that_makes_it_too_large() {
    leaves_out_the_reason_string(|client| {
        client.send_unsubscribe(&["a/#/b"]);
    });
}

#[test]
fn mqtt5_3_11_3_2_unsuback_has_reasons_of_its_table() {
    let server = Server::start(&[]);
    let mut client = subscriber(&server, "t");
    let id = client.send_unsubscribe(&["t", "u", "#u", "$share/u"]);
    let reply = client.receive();
    let Packet::Unsuback(ack) = reply.packet() else { panic!("UNSUBACK expected") };
    assert_eq!(ack.packet_id.get(), id);
    let reasons: Vec<u8> = ack.reasons.iter().map(ReasonCode::value).collect();
    assert_eq!(reasons, [0, 0x11, 0x8f, 0x8f]);
    // Table 3-9 of the specification.
    let table = [0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
    assert!(reasons.iter().all(|reason| table.contains(reason)));
}
