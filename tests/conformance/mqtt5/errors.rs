//! 4.12, enhanced authentication without a module that knows a method; 4.13, errors.

use super::{V5, accepted, connect_accepted, connect_packet, refused};
use crate::support::{Packet, QoS, ReasonCode, Server};

/// What happens with a method that is known is shown by `src/broker/tests/auth.rs`.
#[test]
fn mqtt5_4_12_0_1_a_method_that_is_not_known_is_refused() {
    let server = Server::start(&[]);
    let mut client = server.try_connect(V5, "client", |connect| {
        connect.properties.authentication_method = Some("SCRAM-SHA-1");
        connect.properties.authentication_data = Some(b"data");
    });
    assert_eq!(client.connack.reason, ReasonCode::BadAuthenticationMethod);
    client.expect_closed();
}

#[test]
fn mqtt5_4_12_0_6_no_auth_and_no_method_for_a_client_that_names_none() {
    for (anonymous, reason) in [("true", ReasonCode::Success), ("false", ReasonCode::NotAuthorized)]
    {
        let server = Server::start(&[&format!("--allow-anonymous={anonymous}")]);
        let mut client = server.open(V5);
        client.send_connect("client", |connect| {
            connect.user_name = Some("user");
            connect.password = Some(b"password");
        });
        let reply = client.receive();
        let Packet::Connack(connack) = reply.packet() else { panic!("CONNACK expected") };
        assert_eq!(connack.reason, reason);
        assert_eq!(connack.properties.authentication_method, None);
        assert_eq!(connack.properties.authentication_data, None);
    }
}

#[test]
fn mqtt5_4_13_1_1_what_is_malformed_or_a_protocol_error_closes_the_connection() {
    let server = Server::start(&[]);
    let error = ReasonCode::ProtocolError;
    // Packets that only a server sends.
    for bytes in [&b"\x20\x03\0\0\0"[..], b"\x90\x04\0\x01\0\0", b"\xb0\x04\0\x01\0\0", b"\xd0\0"] {
        refused(&server, bytes, error);
    }
    // A length of five bytes; packets that end too early.
    for bytes in [&b"\x30\xff\xff\xff\xff\x01"[..], b"\x40\x01\0", b"\x82\0", b"\x30\0"] {
        refused(&server, bytes, ReasonCode::MalformedPacket);
    }
    // It is the one connection that is closed.
    connect_accepted(&server, &connect_packet(2, &[b"\0\x01a"]));
}

#[test]
fn mqtt5_4_13_2_1_a_failure_in_an_acknowledgement_closes_nothing() {
    let server = Server::start(&[]);
    let mut client = server.connect(V5, "client");
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        assert_eq!(client.publish("$SYS/x", "x", qos), ReasonCode::NotAuthorized);
    }
    assert!(client.subscribe("#a", QoS::AtMostOnce).is_error());
    assert!(client.unsubscribe(&["#a"])[0].is_error());
    client.expect_nothing();
    // Whereas one in DISCONNECT does, also if the client is the one who sends it.
    accepted(&server, b"\x40\x04\0\x01\x80\0");
    let mut client = server.connect(V5, "client");
    client.send_raw(b"\xe0\x01\x80\xc0\0");
    client.expect_closed();
}
