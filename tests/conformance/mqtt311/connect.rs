//! 3.1: CONNECT, as far as it is not about its flags and fields.

use super::*;

#[test]
fn mqtt311_3_1_0_1_what_comes_before_connect_closes_the_connection() {
    let server = Server::start(&[]);
    let mut neighbour = server.connect(V3, "neighbour");
    neighbour.subscribe("t", Q0);
    for bytes in [
        &b"\x30\x03\0\x01t"[..],
        b"\x32\x05\0\x01t\0\x01",
        b"\x40\x02\0\x01",
        b"\x50\x02\0\x01",
        b"\x62\x02\0\x01",
        b"\x70\x02\0\x01",
        b"\x82\x06\0\x01\0\x01t\0",
        b"\xa2\x05\0\x01\0\x01t",
        b"\xc0\0",
        b"\xe0\0",
        b"\x20\x02\0\0",
    ] {
        // A good CONNECT behind it makes nothing good.
        refused(&server, &[bytes, &connect(0x02, &[b"client"])].concat());
    }
    neighbour.expect_nothing();
}

#[test]
fn mqtt311_3_1_0_2_a_second_connect_is_a_violation() {
    let server = Server::start(&[]);
    let mut neighbour = server.connect(V3, "neighbour");
    neighbour.subscribe("will", Q0);
    for second in [connect(0x02, &[b"client"]), connect(0x02, &[b"another"])] {
        let bytes = connect(0x06, &[b"client", b"will", b"gone"]);
        let mut client = answered(&server, &bytes, ACCEPTED);
        client.send_raw(&second);
        client.expect_closed();
        neighbour.expect_message("will", "gone");
    }
}

#[test]
fn mqtt311_3_1_2_1_another_protocol_name_is_not_accepted() {
    let server = Server::start(&[]);
    for name in [&b"MQTt"[..], b"mqtt", b"MQT", b"MQTTT", b"", b"HTTP", b"MQIsdP"] {
        let bytes = packet(0x10, &[&field(name), b"\x04\x02\0\0\0\x01a"]);
        refused(&server, &bytes);
    }
    let mut client = server.open(V3);
    client.send_raw(&packet(0x10, &[&field(b"MQTT"), b"\x04\x02\0\0\0\x01a"]));
    assert!(!client.expect_connack().reason.is_error());
}

#[test]
fn mqtt311_3_1_2_2_an_unknown_level_is_refused_with_1() {
    let server = Server::start(&[]);
    for level in [0, 1, 2, 3, 0x84, 0xff] {
        let bytes = packet(0x10, &[b"\0\x04MQTT", &[level], b"\x02\0\0\0\x01a"]);
        answered(&server, &bytes, b"\x20\x02\0\x01").expect_closed();
    }
    // Above 5 the answer is the one that MQTT 5 gives.
    let mut client = server.open(Version::V5);
    client.send_raw(b"\x10\x0e\0\x04MQTT\x06\x02\0\0\0\0\x01a");
    assert!(client.expect_connack().reason.is_error());
    client.expect_closed();
    answered(&server, &connect(0x02, &[b"a"]), ACCEPTED).expect_nothing();
}

#[test]
fn mqtt311_3_1_3_1_the_fields_of_the_payload_are_read_in_their_order() {
    let server = Server::start(&["--node-name=node"]);
    let mut watcher = server.connect(V3, "watcher");
    watcher.subscribe("$SYS/brokers/node/clients/id/connected", Q0);
    watcher.subscribe("topic", Q1);
    let fields: [&[u8]; 5] = [b"id", b"topic", b"message", b"name", b"\xff\0\xff"];
    let client = answered(&server, &connect(0xce, &fields), ACCEPTED);
    let message = watcher.expect_publish();
    let event: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(event["client_id"], "id");
    assert_eq!(event["user_name"], "name");
    client.cut();
    watcher.take_message("topic", "message");
}

/// Shows: MQTT311-3.1.3-10, MQTT311-3.1.3-11
#[test]
fn mqtt311_3_1_3_4_fields_that_are_not_text_close_the_connection() {
    let server = Server::start(&[]);
    let bad = b"a\xc3(";
    refused(&server, &connect(0x02, &[bad]));
    refused(&server, &connect(0x06, &[b"client", bad, b""]));
    refused(&server, &connect(0x82, &[b"client", bad]));
    // Will message and password are no text.
    let fields: [&[u8]; 5] = ["ü".as_bytes(), "ö".as_bytes(), bad, "ä".as_bytes(), bad];
    answered(&server, &connect(0xc6, &fields), ACCEPTED);
}

#[test]
fn mqtt311_3_1_4_1_a_bad_connect_gets_no_connack() {
    let server = Server::start(&[]);
    let good = connect(0xc6, &[b"client", b"will", b"gone", b"name", b"word"]);
    // It ends within any of its fields, or one byte late.
    for length in 0..good.len() - 2 {
        refused(&server, &packet(0x10, &[&good[2..2 + length]]));
    }
    refused(&server, &packet(0x10, &[&good[2..], b"x"]));
    let empty_will_topic = connect(0x06, &[b"client", b"", b"gone"]);
    refused(&server, &empty_will_topic);
    answered(&server, &good, ACCEPTED);
}

#[test]
fn mqtt311_3_1_4_2_the_older_connection_of_a_client_is_closed() {
    let server = Server::start(&[]);
    for clean in [0x00, 0x02] {
        let bytes = connect(clean, &[b"client"]);
        let mut older = answered(&server, &bytes, ACCEPTED);
        let mut other = server.connect(V3, "other");
        let mut newer = server.connect(V3, "client");
        older.expect_closed();
        other.expect_nothing();
        newer.expect_nothing();
    }
}

#[test]
fn mqtt311_3_1_4_3_a_take_over_heeds_clean_session() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V3, "publisher");
    let mut first = resume(&server, "client");
    first.subscribe("t", Q1);
    let mut second = resume(&server, "client");
    assert!(second.connack.session_present);
    publisher.publish("t", "kept", Q1);
    second.take_message("t", "kept");
    let mut third = server.connect(V3, "client");
    assert!(!third.connack.session_present);
    publisher.publish("t", "gone", Q1);
    third.expect_nothing();
}

#[test]
fn mqtt311_3_1_4_4_an_accepted_connect_is_answered_with_0() {
    let server = Server::start(&[]);
    for flags in [0x02, 0x00] {
        let mut client = answered(&server, &connect(flags, &[b"client"]), ACCEPTED);
        client.expect_nothing();
        client.disconnect();
    }
}

#[test]
fn mqtt311_3_1_4_5_nothing_behind_a_refused_connect_counts() {
    let server = Server::start(&["--allow-empty-client-id=false"]);
    let mut neighbour = server.connect(V3, "neighbour");
    neighbour.subscribe("t", Q0);
    let publish = b"\x30\x03\0\x01t";
    let again = connect(0x02, &[b"client"]);
    let bytes = [&connect(0x02, &[b""])[..], publish, &again, publish].concat();
    answered(&server, &bytes, b"\x20\x02\0\x02").expect_closed();
    // Where the CONNECT is good, what comes right behind it counts.
    neighbour.expect_nothing();
    answered(&server, &[&again[..], publish].concat(), ACCEPTED);
    neighbour.expect_message("t", "");
}
