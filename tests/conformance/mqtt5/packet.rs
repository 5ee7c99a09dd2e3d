//! Chapter 2: what packets have in common.

use ringmq::codec::AckKind;

use super::{EVERY_QOS, V5, accepted, connect_packet, packet, refused, subscriber};
use crate::support::{QoS, ReasonCode, Server};

#[test]
fn mqtt5_2_1_3_1_reserved_flags_are_malformed() {
    let server = Server::start(&[]);
    // PUBACK, PUBREC, PUBCOMP, PINGREQ: their flags are 0; those of others have clauses of their
    // own.
    for header in [0x40, 0x50, 0x70] {
        for flags in [1, 2, 4, 8] {
            refused(&server, &[header | flags, 2, 0, 1], ReasonCode::MalformedPacket);
        }
        accepted(&server, &[header, 2, 0, 1]);
    }
    for flags in [1, 2, 4, 8] {
        refused(&server, &[0xc0 | flags, 0], ReasonCode::MalformedPacket);
        // In which version to answer this CONNECT cannot be told.
        let mut client = server.open(V5);
        let mut connect = connect_packet(2, &[b"\0\x01a"]);
        connect[0] |= flags;
        client.send_raw(&connect);
        client.expect_closed();
    }
    // Packet type 0.
    refused(&server, &[0, 0], ReasonCode::MalformedPacket);
}

#[test]
fn mqtt5_2_2_1_2_no_packet_identifier_with_qos_0() {
    let server = Server::start(&[]);
    let mut client = subscriber(&server, "t");
    // What could be one is payload.
    client.send_raw(b"\x30\x06\0\x01t\0\0\x07");
    let message = client.expect_publish();
    assert_eq!(message.payload, [0, 7]);
    client.publish("t", "x", QoS::AtMostOnce);
    // First byte, length, topic, property length, payload: nothing else.
    assert_eq!(client.receive().len(), 1 + 1 + 3 + 1 + 1);
}

#[test]
fn mqtt5_2_2_1_3_packet_identifier_0_is_a_protocol_error() {
    let server = Server::start(&[]);
    for header in [0x32, 0x34] {
        let publish = |id: &[u8]| packet(header, &[b"\0\x01t", id, b"\0"]);
        refused(&server, &publish(b"\0\0"), ReasonCode::ProtocolError);
        accepted(&server, &publish(b"\xff\xff"));
    }
    refused(&server, b"\x82\x07\0\0\0\0\x01t\0", ReasonCode::ProtocolError);
    refused(&server, b"\xa2\x06\0\0\0\0\x01t", ReasonCode::ProtocolError);
    accepted(&server, b"\x82\x07\0\x01\0\0\x01t\0\xa2\x06\0\x01\0\0\x01t");
}

/// Shows: MQTT5-4.3.2-1, MQTT5-4.3.3-1
#[test]
fn mqtt5_2_2_1_4_messages_in_flight_have_identifiers_of_their_own() {
    let server = Server::start(&[]);
    let mut client = subscriber(&server, "t");
    let mut ids = Vec::new();
    for n in 0..20 {
        let qos = EVERY_QOS[1 + n % 2];
        client.send_publish("t", "x", qos);
    }
    for message in client.drain() {
        assert_ne!(message.packet_id, 0);
        ids.push(message.packet_id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20);
}

/// Shows: MQTT5-4.3.3-11
#[test]
fn mqtt5_2_2_1_5_acknowledgements_carry_the_identifier_of_their_publish() {
    let server = Server::start(&[]);
    let mut client = subscriber(&server, "other");
    client.send_raw(b"\x32\x06\0\x01t\x12\x34\0");
    client.expect_ack(AckKind::Puback, 0x1234);
    client.send_raw(b"\x34\x06\0\x01t\xfe\xdc\0");
    client.expect_ack(AckKind::Pubrec, 0xfedc);
    client.ack(AckKind::Pubrel, 0xfedc);
    client.expect_ack(AckKind::Pubcomp, 0xfedc);
    // And in the other direction.
    let mut publisher = server.connect(V5, "publisher");
    publisher.publish("other", "1", QoS::ExactlyOnce);
    publisher.publish("other", "2", QoS::ExactlyOnce);
    let (first, second) = (client.expect_publish(), client.expect_publish());
    for message in [second, first] {
        client.ack(AckKind::Pubrec, message.packet_id);
        client.expect_ack(AckKind::Pubrel, message.packet_id);
    }
}

/// Shows: MQTT5-3.8.4-2, MQTT5-3.10.4-5
#[test]
fn mqtt5_2_2_1_6_suback_and_unsuback_carry_the_identifier_of_what_they_answer() {
    let server = Server::start(&[]);
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\x82\x07\xab\xcd\0\0\x01t\0");
    client.expect_suback(0xabcd);
    // The second of the two finds no subscription to delete.
    for _ in 0..2 {
        client.send_raw(b"\xa2\x06\xdc\xba\0\0\x01t");
        let reply = client.receive();
        match reply.packet() {
            ringmq::codec::Packet::Unsuback(ack) => assert_eq!(ack.packet_id.get(), 0xdcba),
            other => panic!("UNSUBACK expected, not {other:?}"),
        }
    }
}

#[test]
fn mqtt5_2_2_2_1_no_properties_is_a_property_length_of_zero() {
    let server = Server::start(&[]);
    for without in [&b"\x30\x03\0\x01t"[..], b"\x82\x02\0\x01", b"\xa2\x02\0\x01"] {
        refused(&server, without, ReasonCode::MalformedPacket);
    }
    accepted(&server, b"\x30\x04\0\x01t\0");
    // SUBACK and UNSUBACK: first byte, length, identifier, property length, one reason.
    let mut client = server.connect(V5, "client");
    client.send_subscribe(&[("t", <_>::default())], 0);
    assert_eq!(client.receive().len(), 6);
    client.send_unsubscribe(&["t"]);
    assert_eq!(client.receive().len(), 6);
}

/// No number: 2.2.2.2.
#[test]
fn properties_that_do_not_belong_there_are_refused() {
    let server = Server::start(&[]);
    let publish =
        |properties: &[u8]| packet(0x30, &[b"\0\x01t", &[properties.len() as u8], properties]);
    let malformed = ReasonCode::MalformedPacket;
    // An identifier that is not there, one of another packet, an identifier in two bytes.
    refused(&server, &publish(b"\x04\0"), malformed);
    refused(&server, &publish(b"\x11\0\0\0\x01"), malformed);
    refused(&server, &publish(b"\x81\0\x01"), malformed);
    // A length that ends in the middle of a property, or behind the packet.
    refused(&server, &packet(0x30, &[b"\0\x01t", b"\x01\x01"]), malformed);
    refused(&server, &packet(0x30, &[b"\0\x01t", b"\x05\x01\0"]), malformed);
    // Twice, and out of range.
    refused(&server, &publish(b"\x01\0\x01\0"), ReasonCode::ProtocolError);
    refused(&server, &publish(b"\x01\x02"), ReasonCode::ProtocolError);
    accepted(&server, &publish(b"\x01\x01\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b"));
}
