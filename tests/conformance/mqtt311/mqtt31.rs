//! Where MQTT 3.1 differs. Its statements have no numbers.

use super::*;
use crate::support::{Packet, ReasonCode};
use ringmq::codec::AckKind;

const V31: Version = Version::V3_1;

/// A CONNECT of MQTT 3.1 without keep alive.
fn connect31(flags: u8, fields: &[&[u8]]) -> Vec<u8> {
    let payload: Vec<u8> = fields.iter().flat_map(|bytes| field(bytes)).collect();
    packet(0x10, &[b"\0\x06MQIsdp\x03", &[flags], b"\0\0", &payload])
}

#[test]
fn mqtt31_is_called_mqisdp_and_has_level_3() {
    let server = Server::start(&[]);
    answered(&server, &connect31(0x02, &[b"client"]), ACCEPTED).expect_nothing();
    // Name and level belong together; the answer is return code 1.
    for start in [&b"\0\x06MQIsdp\x04"[..], b"\0\x06MQIsdp\x05", b"\0\x04MQTT\x03"] {
        let bytes = packet(0x10, &[start, b"\x02\0\0\0\x01a"]);
        answered(&server, &bytes, b"\x20\x02\0\x01").expect_closed();
    }
}

#[test]
fn mqtt31_client_identifiers_have_1_to_23_characters() {
    let server = Server::start(&[]);
    let refusal = b"\x20\x02\0\x02";
    let longest = "ä".repeat(23);
    for id in ["a", "a/+#$ b", &"x".repeat(23), &longest] {
        answered(&server, &connect31(0x02, &[id.as_bytes()]), ACCEPTED).expect_nothing();
    }
    for clean in [0x00, 0x02] {
        answered(&server, &connect31(clean, &[b""]), refusal).expect_closed();
        answered(&server, &connect31(clean, &[&[b'x'; 24]]), refusal).expect_closed();
    }
    answered(&server, &connect31(0x02, &[(longest + "x").as_bytes()]), refusal).expect_closed();
    // MQTT 3.1.1 knows no such limit.
    answered(&server, &connect(0x02, &[&[b'x'; 24]]), ACCEPTED);
}

#[test]
fn mqtt31_longer_client_identifiers_are_a_matter_of_a_flag() {
    let server = Server::start(&["--allow-long-client-ids=true"]);
    answered(&server, &connect31(0x02, &[&[b'x'; 24]]), ACCEPTED).expect_nothing();
    answered(&server, &connect31(0x02, &[b""]), b"\x20\x02\0\x02").expect_closed();
}

#[test]
fn mqtt31_connack_says_nothing_of_a_session() {
    let server = Server::start(&[]);
    let mut client = answered(&server, &connect31(0x00, &[b"client"]), ACCEPTED);
    exchange(&mut client, b"\x82\x06\0\x01\0\x01t\x01", b"\x90\x03\0\x01\x01");
    client.cut();
    server.connect(V31, "publisher").publish("t", "x", Q1);
    // It is there all the same.
    let mut client = answered(&server, &connect31(0x00, &[b"client"]), ACCEPTED);
    client.take_message("t", "x");
}

/// There is no code for a failure. The server has no way to inform the client, and makes a positive
/// acknowledgement: at QoS 0, which is the least.
#[test]
fn mqtt31_no_subscription_is_refused() {
    let server = Server::start(&["--max-subscriptions=1"]);
    let mut client = answered(&server, &connect31(0x02, &[b"client"]), ACCEPTED);
    let request = b"\x82\x0e\0\x01\0\x01a\x02\0\x01b\x01\0\x01c\x02";
    exchange(&mut client, request, b"\x90\x05\0\x01\x02\0\0");
}

#[test]
fn mqtt31_return_codes() {
    let server = Server::start(&["--max-connections=1"]);
    let _first = answered(&server, &connect31(0x02, &[b"first"]), ACCEPTED);
    let mut second = answered(&server, &connect31(0x02, &[b"second"]), b"\x20\x02\0\x03");
    second.expect_closed();
    let server = Server::start(&["--allow-anonymous=false"]);
    let mut client = answered(&server, &connect31(0x02, &[b"client"]), b"\x20\x02\0\x05");
    client.expect_closed();
}

/// Clients of MQTT 3 leave them out, whatever the flags say: the Remaining Length takes precedence.
#[test]
fn mqtt31_user_name_and_password_may_be_missing() {
    let server = Server::start(&[]);
    for (flags, fields) in [
        (0xc2, &[&b"client"[..]][..]),
        (0xc2, &[b"client", b"name"]),
        (0x82, &[b"client"]),
        (0xc2, &[b"client", b"name", b"word"]),
    ] {
        answered(&server, &connect31(flags, fields), ACCEPTED);
    }
    // Half of one is none, and a password needs a name.
    refused(&server, &packet(0x10, &[b"\0\x06MQIsdp\x03\x82\0\0\0\x01a\0"]));
    refused(&server, &connect31(0x42, &[b"client", b"word"]));
}

/// Bit 0 of the connect flags, and those of a will that is not there.
#[test]
fn mqtt31_flags_that_are_not_used_are_not_looked_at() {
    let server = Server::start(&[]);
    for flags in [0x03, 0x0a, 0x1a, 0x22] {
        answered(&server, &connect31(flags, &[b"client"]), ACCEPTED).expect_nothing();
    }
    refused(&server, &connect31(0x1e, &[b"client", b"will", b"gone"]));
    // Six bits beside a filter.
    let mut client = answered(&server, &connect31(0x02, &[b"client"]), ACCEPTED);
    exchange(&mut client, b"\x82\x06\0\x01\0\x01t\xfd", b"\x90\x03\0\x01\x01");
}

#[test]
fn mqtt31_subscribe_unsubscribe_and_pubrel_may_come_again_with_dup() {
    let server = Server::start(&[]);
    let mut client = answered(&server, &connect31(0x02, &[b"client"]), ACCEPTED);
    exchange(&mut client, b"\x8a\x06\0\x01\0\x01t\x01", b"\x90\x03\0\x01\x01");
    exchange(&mut client, b"\xaa\x05\0\x02\0\x01t", b"\xb0\x02\0\x02");
    exchange(&mut client, b"\x34\x05\0\x01t\0\x03", b"\x50\x02\0\x03");
    exchange(&mut client, b"\x6a\x02\0\x03", b"\x70\x02\0\x03");
    // Not with any other QoS than 1.
    for header in [0x80, 0x84, 0x86, 0xa0, 0xa4] {
        let mut client = server.connect(V31, "client");
        client.send_raw(&packet(header, &[b"\0\x01\0\x01t\0"]));
        client.expect_closed();
    }
}

#[test]
fn mqtt31_sessions_wills_and_redelivery_are_as_in_mqtt_311() {
    let server = Server::start(&[]);
    let mut watcher = server.connect(V31, "watcher");
    watcher.subscribe("will", Q0);
    let bytes = connect31(0x04, &[b"client", b"will", b"gone"]);
    let mut client = answered(&server, &bytes, ACCEPTED);
    exchange(&mut client, b"\x82\x06\0\x01\0\x01t\x02", b"\x90\x03\0\x01\x02");
    assert_eq!(watcher.publish("t", "one", Q1), ReasonCode::Success);
    assert_eq!(watcher.publish("t", "two", Q2), ReasonCode::Success);
    let ids = ["one", "two"].map(|text| client.expect_message("t", text).packet_id);
    // An older connection is closed before the newer one is answered.
    let mut newer = answered(&server, &bytes, ACCEPTED);
    client.expect_closed();
    watcher.expect_message("will", "gone");
    for (text, id) in ["one", "two"].into_iter().zip(ids) {
        let message = newer.expect_message("t", text);
        assert_eq!((message.packet_id, message.dup), (id, true));
    }
    newer.ack(AckKind::Puback, ids[0]);
    newer.ack(AckKind::Pubrec, ids[1]);
    newer.expect_ack(AckKind::Pubrel, ids[1]);
    newer.send(&Packet::Connect(crate::support::Connect {
        version: V31,
        clean_start: true,
        keep_alive: 0,
        client_id: "client",
        will: None,
        user_name: None,
        password: None,
        properties: Default::default(),
    }));
    newer.expect_closed();
    watcher.expect_message("will", "gone");
}
