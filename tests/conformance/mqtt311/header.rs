//! Chapter 2: the fixed header, and packet identifiers.

use super::*;
use crate::support::PacketId;
use ringmq::codec::AckKind;

#[test]
fn mqtt311_2_2_2_1_every_packet_of_the_broker_has_the_flags_of_its_type() {
    let server = Server::start(&[]);
    let mut client = answered(&server, &connect(0x02, &[b"client"]), ACCEPTED);
    let client = &mut client;
    exchange(client, b"\x82\x06\0\x01\0\x01t\x02", b"\x90\x03\0\x01\x02");
    exchange(client, b"\x32\x05\0\x01q\0\x02", b"\x40\x02\0\x02");
    exchange(client, b"\x34\x05\0\x01q\0\x03", b"\x50\x02\0\x03");
    exchange(client, b"\x62\x02\0\x03", b"\x70\x02\0\x03");
    exchange(client, b"\x30\x03\0\x01t", b"\x30\x03\0\x01t");
    exchange(client, b"\x32\x05\0\x01t\0\x04", b"\x32\x05\0\x01t\0\x01\x40\x02\0\x04");
    exchange(client, b"\x34\x05\0\x01t\0\x05", b"\x34\x05\0\x01t\0\x02\x50\x02\0\x05");
    exchange(client, b"\x50\x02\0\x02", b"\x62\x02\0\x02");
    exchange(client, b"\xa2\x05\0\x06\0\x01t", b"\xb0\x02\0\x06");
    exchange(client, b"\xc0\0", b"\xd0\0");
}

/// Shows: MQTT311-3.6.1-1, MQTT311-3.8.1-1, MQTT311-3.10.1-1, MQTT311-3.14.1-1
#[test]
fn mqtt311_2_2_2_2_other_flags_close_the_connection() {
    let server = Server::start(&[]);
    let mut neighbour = server.connect(V3, "neighbour");
    for (header, body) in [
        (0x40, &b"\0\x01"[..]),
        (0x50, b"\0\x01"),
        (0x62, b"\0\x01"),
        (0x70, b"\0\x01"),
        (0x82, b"\0\x01\0\x01t\0"),
        (0xa2, b"\0\x01\0\x01t"),
        (0xc0, b""),
        (0xe0, b""),
    ] {
        for flags in (0..16).filter(|flags| *flags != header & 0x0f) {
            closed(&server, &packet(header & 0xf0 | flags, &[body]));
        }
    }
    for flags in 1..16 {
        let mut bytes = connect(0x02, &[b"client"]);
        bytes[0] |= flags;
        refused(&server, &bytes);
    }
    neighbour.expect_nothing();
    // A DISCONNECT with other flags is none: the will is published.
    neighbour.subscribe("will", Q0);
    let bytes = connect(0x06, &[b"client", b"will", b"gone"]);
    let mut client = answered(&server, &bytes, ACCEPTED);
    client.send_raw(b"\xe1\0");
    client.expect_closed();
    neighbour.expect_message("will", "gone");
}

#[test]
fn mqtt311_2_3_1_1_packet_identifier_0_closes_the_connection() {
    let server = Server::start(&[]);
    for bytes in [
        &b"\x82\x06\0\0\0\x01t\0"[..],
        b"\xa2\x05\0\0\0\x01t",
        b"\x32\x05\0\x01t\0\0",
        b"\x34\x05\0\x01t\0\0",
    ] {
        closed(&server, bytes);
    }
    let mut client = server.connect(V3, "client");
    for id in [b"\0\x01", b"\xff\xff"] {
        exchange(&mut client, &packet(0x82, &[id, b"\0\x01x\0"]), &packet(0x90, &[id, b"\0"]));
        exchange(&mut client, &packet(0xa2, &[id, b"\0\x01x"]), &packet(0xb0, &[id]));
        exchange(&mut client, &packet(0x32, &[b"\0\x01t", id]), &packet(0x40, &[id]));
        exchange(&mut client, &packet(0x34, &[b"\0\x01t", id]), &packet(0x50, &[id]));
        exchange(&mut client, &packet(0x62, &[id]), &packet(0x70, &[id]));
    }
}

#[test]
fn mqtt311_2_3_1_4_the_broker_keeps_an_identifier_until_it_is_acknowledged() {
    let server = Server::start(&["--max-inflight=3"]);
    let mut client = resume(&server, "client");
    client.subscribe("t", Q2);
    let mut publisher = server.connect(V3, "publisher");
    for text in ["a", "b", "c"] {
        publisher.publish("t", text, Q1);
    }
    let sent: Vec<_> = client.drain();
    assert!(sent.iter().all(|message| PacketId::new(message.packet_id).is_some()));
    let ids: Vec<_> = sent.iter().map(|message| message.packet_id).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    client.ack(AckKind::Puback, ids[1]);
    client.expect_nothing();
    client.cut();
    let mut client = resume(&server, "client");
    assert_eq!(client.expect_message("t", "a").packet_id, ids[0]);
    assert_eq!(client.expect_message("t", "c").packet_id, ids[2]);
    publisher.publish("t", "d", Q2);
    let new = client.expect_message("t", "d").packet_id;
    assert!(new != ids[0] && new != ids[2]);
}

/// Shows: MQTT311-4.3.1-1
#[test]
fn mqtt311_2_3_1_5_qos_0_has_no_packet_identifier() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    client.subscribe("t", Q2);
    // What stands behind the topic is the payload, in both directions.
    let bytes = b"\x30\x07\0\x01t\0\x07hi";
    exchange(&mut client, bytes, bytes);
    client.expect_nothing();
}

/// Shows: MQTT311-2.3.1-7
#[test]
fn mqtt311_2_3_1_6_an_answer_has_the_identifier_of_what_it_answers() {
    let server = Server::start(&[]);
    let mut client = server.connect(V3, "client");
    for id in [b"\x12\x34", b"\0\x01", b"\xff\xff", b"\x80\0"] {
        exchange(&mut client, &packet(0x32, &[b"\0\x01x", id]), &packet(0x40, &[id]));
        exchange(&mut client, &packet(0x34, &[b"\0\x01x", id]), &packet(0x50, &[id]));
        exchange(&mut client, &packet(0x62, &[id]), &packet(0x70, &[id]));
        let request = packet(0x82, &[id, b"\0\x01t\x01"]);
        exchange(&mut client, &request, &packet(0x90, &[id, b"\x01"]));
        exchange(&mut client, &packet(0xa2, &[id, b"\0\x01t"]), &packet(0xb0, &[id]));
    }
    client.subscribe("t", Q2);
    client.send_publish("t", "", Q2);
    let message = client.expect_publish();
    client.receive();
    client.ack(AckKind::Pubrec, message.packet_id);
    client.expect_ack(AckKind::Pubrel, message.packet_id);
}
