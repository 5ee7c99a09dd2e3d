//! 4.3 and 4.4: the flows of QoS 1 and 2.

use super::*;
use ringmq::codec::AckKind;

#[test]
fn mqtt311_4_3_2_1_qos_1_is_unacknowledged_until_puback() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = resume(&server, "client");
    client.subscribe("t", Q1);
    publisher.publish("t", "one", Q1);
    publisher.publish("t", "two", Q1);
    let one = client.expect_message("t", "one");
    let two = client.expect_message("t", "two");
    assert!(one.packet_id != two.packet_id && !one.dup && !two.dup);
    client.ack(AckKind::Puback, one.packet_id);
    client.expect_nothing();
    client.cut();
    let mut client = resume(&server, "client");
    let again = client.expect_message("t", "two");
    assert_eq!((again.packet_id, again.dup), (two.packet_id, true));
    client.ack(AckKind::Puback, again.packet_id);
    client.expect_nothing();
    client.cut();
    resume(&server, "client").expect_nothing();
}

#[test]
fn mqtt311_4_3_2_2_after_puback_the_same_identifier_is_a_new_message() {
    let server = Server::start(&[]);
    let mut watcher = server.connect(V3, "watcher");
    watcher.subscribe("t", Q1);
    let mut client = server.connect(V3, "client");
    for (header, text) in [(0x32, b"1"), (0x3a, b"2"), (0x32, b"3"), (0x3a, b"4")] {
        let request = packet(header, &[b"\0\x01t\0\x09", text]);
        exchange(&mut client, &request, b"\x40\x02\0\x09");
        watcher.take_message("t", std::str::from_utf8(text).unwrap());
    }
}

/// Shows: MQTT311-4.4.0-1
#[test]
fn mqtt311_4_3_3_1_qos_2_is_sent_step_by_step() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut client = resume(&server, "client");
    client.subscribe("t", Q2);
    publisher.publish("t", "x", Q2);
    let message = client.expect_message("t", "x");
    assert!(!message.dup);
    // Before PUBREC the PUBLISH comes again, after it the PUBREL.
    client.cut();
    let mut client = resume(&server, "client");
    let again = client.expect_message("t", "x");
    assert_eq!((again.packet_id, again.dup), (message.packet_id, true));
    client.ack(AckKind::Pubrec, message.packet_id);
    client.expect_ack(AckKind::Pubrel, message.packet_id);
    for _ in 0..2 {
        client.cut();
        client = resume(&server, "client");
        client.expect_ack(AckKind::Pubrel, message.packet_id);
        client.expect_nothing();
    }
    client.ack(AckKind::Pubcomp, message.packet_id);
    client.expect_nothing();
    client.cut();
    resume(&server, "client").expect_nothing();
}

#[test]
fn mqtt311_4_3_3_2_qos_2_is_received_once() {
    let server = Server::start(&[]);
    let mut watcher = server.connect(V3, "watcher");
    watcher.subscribe("t", Q2);
    let mut client = resume(&server, "client");
    let first = b"\x34\x06\0\x01t\0\x09x";
    let again = b"\x3c\x06\0\x01t\0\x09x";
    exchange(&mut client, first, b"\x50\x02\0\x09");
    watcher.take_message("t", "x");
    // With or without DUP, on this connection or another, it is the same message until PUBREL.
    for bytes in [again, first] {
        exchange(&mut client, bytes, b"\x50\x02\0\x09");
    }
    client.cut();
    let mut client = resume(&server, "client");
    exchange(&mut client, again, b"\x50\x02\0\x09");
    watcher.expect_nothing();
    exchange(&mut client, b"\x62\x02\0\x09", b"\x70\x02\0\x09");
    // A PUBREL that comes again is answered again.
    exchange(&mut client, b"\x62\x02\0\x09", b"\x70\x02\0\x09");
    exchange(&mut client, again, b"\x50\x02\0\x09");
    watcher.take_message("t", "x");
}
