//! 3.1.3, the payload of CONNECT, and the flags that say what is in it.

use super::{V5, connect_accepted, connect_packet, connect_refused, subscriber};
use crate::support::{Client, ReasonCode, Server, over_shards};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;
const WILL: &[u8] = b"\0\0\x01w\0\x04gone";

/// Shows: MQTT5-3.1.3-3
#[test]
fn mqtt5_3_1_3_1_the_fields_come_in_their_order() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "#");
    // With user name and password, a will of QoS 1 that is not retained.
    let fields: [&[u8]; 4] = [b"\0\x02id", WILL, b"\0\x04user", b"\0\x04pass"];
    let client = connect_accepted(&server, &connect_packet(0xce, &fields));
    // The identifier is the first: another connection with it takes this one over.
    let mut client = taken_over(&server, client, "id");
    client.send_raw(b"\xe0\0");
    client.expect_closed();
    assert_eq!(watcher.take_message("w", "gone").qos, crate::support::QoS::AtLeastOnce);
    watcher.expect_nothing();
}

/// Another connection for this client identifier ends that of `client`.
fn taken_over(server: &Server, mut client: Client, client_id: &str) -> Client {
    let new = server.connect(V5, client_id);
    client.expect_disconnect(ReasonCode::SessionTakenOver);
    new
}

/// A payload without a client identifier is no payload.
#[test]
fn mqtt5_3_1_3_3_the_client_identifier_is_there() {
    let server = Server::start(&[]);
    connect_refused(&server, &connect_packet(2, &[]), MALFORMED);
}

#[test]
fn mqtt5_3_1_3_4_the_client_identifier_is_text() {
    let server = Server::start(&[]);
    for id in [&b"\0\x01\xff"[..], b"\0\x01\0", b"\0\x03\xed\xa0\x80"] {
        connect_refused(&server, &connect_packet(2, &[id]), MALFORMED);
    }
    connect_accepted(&server, &connect_packet(2, &["\0\x05ü€".as_bytes()]));
}

#[test]
fn mqtt5_3_1_3_5_identifiers_of_1_to_23_letters_and_digits_are_allowed() {
    let server = Server::start(&[]);
    let characters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for length in 1..=23 {
        server.connect(V5, &characters[characters.len() - length..]).disconnect();
        server.connect(V5, &characters[..length]).disconnect();
    }
    server.connect(V5, &characters[20..43]).expect_nothing();
}

/// Shows: MQTT5-3.1.3-7, MQTT5-3.2.2-16
#[test]
fn mqtt5_3_1_3_6_an_empty_identifier_is_replaced_by_a_new_one() {
    over_shards(&[], |server| {
        let mut clients: Vec<(String, Client)> = Vec::new();
        for clean_start in [true, false].repeat(4) {
            let mut client = server.connect_with(V5, "", |connect| {
                connect.clean_start = clean_start;
                connect.properties.session_expiry_interval = Some(3_600);
            });
            assert!(!client.connack.session_present);
            client.expect_nothing();
            let id = client.connack.assigned_client_identifier.clone().expect("an identifier");
            assert!(!id.is_empty() && clients.iter().all(|(other, _)| *other != id));
            clients.push((id, client));
        }
        // It is as if the client had sent it.
        for (id, client) in clients {
            client.disconnect();
            let again = server.connect_persistent(V5, &id);
            assert!(again.connack.session_present);
            assert_eq!(again.connack.assigned_client_identifier, None);
        }
    });
}

#[test]
fn mqtt5_3_1_3_8_an_identifier_that_is_not_valid_is_refused() {
    let server = Server::start(&["--allow-empty-client-id=false"]);
    let empty = connect_packet(2, &[b"\0\0"]);
    connect_refused(&server, &empty, ReasonCode::ClientIdentifierNotValid);
    connect_accepted(&server, &connect_packet(2, &[b"\0\x01a"]));
}

#[test]
fn mqtt5_3_1_3_11_the_will_topic_is_text() {
    let server = Server::start(&[]);
    let connect = |topic: &[u8]| connect_packet(6, &[b"\0\x01a", b"\0", topic, b"\0\x01x"]);
    for topic in [&b"\0\x01\xff"[..], b"\0\x01\0", b"\0\x03\xed\xa0\x80"] {
        connect_refused(&server, &connect(topic), MALFORMED);
    }
    // 4.7.3: at least one character. 3.3.2.1: no wildcards.
    connect_refused(&server, &connect(b"\0\0"), ReasonCode::ProtocolError);
    connect_refused(&server, &connect(b"\0\x03w/#"), ReasonCode::TopicNameInvalid);
    connect_accepted(&server, &connect(b"\0\x02\xc3\xbc"));
}

#[test]
fn mqtt5_3_1_3_12_the_user_name_is_text() {
    let server = Server::start(&[]);
    for name in [&b"\0\x01\xff"[..], b"\0\x01\0", b"\0\x03\xed\xa0\x80"] {
        connect_refused(&server, &connect_packet(0x82, &[b"\0\x01a", name]), MALFORMED);
    }
    connect_accepted(&server, &connect_packet(0x82, &[b"\0\x01a", b"\0\x02\xc3\xbc"]));
}

#[test]
fn mqtt5_3_1_2_16_without_its_flag_there_is_no_user_name() {
    let server = Server::start(&[]);
    connect_refused(&server, &connect_packet(2, &[b"\0\x01a", b"\0\x01u"]), MALFORMED);
    // What comes first is the password then, which may be any bytes.
    connect_refused(
        &server,
        &connect_packet(0x42, &[b"\0\x01a", b"\0\x01u", b"\0\x01p"]),
        MALFORMED,
    );
    connect_accepted(&server, &connect_packet(2, &[b"\0\x01a"]));
}

#[test]
fn mqtt5_3_1_2_17_with_its_flag_there_is_a_user_name() {
    let server = Server::start(&[]);
    connect_refused(&server, &connect_packet(0x82, &[b"\0\x01a"]), MALFORMED);
    connect_accepted(&server, &connect_packet(0x82, &[b"\0\x01a", b"\0\x01u"]));
    connect_accepted(&server, &connect_packet(0x82, &[b"\0\x01a", b"\0\0"]));
}

#[test]
fn mqtt5_3_1_2_18_without_its_flag_there_is_no_password() {
    let server = Server::start(&[]);
    let fields: [&[u8]; 3] = [b"\0\x01a", b"\0\x01u", b"\0\x01p"];
    connect_refused(&server, &connect_packet(0x82, &fields), MALFORMED);
    connect_accepted(&server, &connect_packet(0xc2, &fields));
}

/// MQTT 5 allows a password without a user name.
#[test]
fn mqtt5_3_1_2_19_with_its_flag_there_is_a_password() {
    let server = Server::start(&[]);
    connect_refused(&server, &connect_packet(0xc2, &[b"\0\x01a", b"\0\x01u"]), MALFORMED);
    connect_refused(&server, &connect_packet(0x42, &[b"\0\x01a"]), MALFORMED);
    connect_accepted(&server, &connect_packet(0x42, &[b"\0\x01a", b"\0\x02\xff\0"]));
}
