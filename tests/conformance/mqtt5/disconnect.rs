//! 3.12 to 3.15: PINGREQ, DISCONNECT, AUTH.

use super::{V5, accepted, leaves_out_the_reason_string, packet, refused, subscriber, will_to};
use crate::support::{Client, Disconnect, Packet, QoS, ReasonCode, Server};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;

#[test]
fn mqtt5_3_12_4_1_every_pingreq_is_answered() {
    let server = Server::start(&[]);
    let mut client = server.connect(V5, "client");
    client.send_raw(&b"\xc0\0".repeat(100));
    for _ in 0..100 {
        assert_eq!(client.receive().packet(), Packet::Pingresp);
    }
    refused(&server, b"\xc0\x01\0", MALFORMED);
}

#[test]
fn mqtt5_3_14_0_1_no_disconnect_before_connack() {
    let server = Server::start(&[]);
    // Whatever is wrong, it is told by CONNACK, or by nothing but the end.
    let first: [&[u8]; 5] = [
        b"\x10\x0e\0\x04MQTT\x05\x03\0\0\0\0\x01a",
        b"\x10\x0e\0\x04MQTT\x09\x02\0\0\0\0\x01a",
        b"\x10\x05\0\x04MQTT\x05",
        b"\xe0\0",
        b"\xff\xff\xff\xff\xff",
    ];
    for bytes in first {
        let mut client = server.open(V5);
        client.send_raw(bytes);
        while let Some(reply) = client.receive_or_closed() {
            assert!(
                matches!(reply.packet(), Packet::Connack(connack) if connack.reason.is_error())
            );
        }
    }
}

#[test]
fn mqtt5_3_14_1_1_other_flags_of_disconnect_are_malformed() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "w");
    for flags in 1..16 {
        let mut client =
            server.connect_with(V5, "client", |connect| connect.will = Some(will_to("w")));
        client.send_raw(&[0xe0 | flags, 0]);
        client.expect_disconnect(MALFORMED);
        // It was no DISCONNECT that would take the will away.
        watcher.take_message("w", "gone");
    }
}

#[test]
fn mqtt5_3_14_2_1_disconnect_has_a_reason_of_its_table() {
    let server = Server::start(&[]);
    // Those that a client may use, and those that only a server may.
    let of_clients =
        [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    for reason in 0..=0xff {
        let mut client = server.connect(V5, "client");
        client.send_raw(&[0xe0, 1, reason]);
        if of_clients.contains(&reason) {
            client.expect_closed();
        } else if ReasonCode::try_from(reason).is_ok() {
            client.expect_disconnect(ReasonCode::ProtocolError);
        } else {
            client.expect_disconnect(MALFORMED);
        }
    }
}

/// What the broker says when it disconnects, as bytes: nothing else may come behind it.
fn last_packet(mut client: Client) -> Vec<u8> {
    let mut all = Vec::new();
    std::io::Read::read_to_end(&mut client.stream(), &mut all).expect("the end of the stream");
    client.expect_closed();
    all
}

/// Shows: MQTT5-3.14.4-1, MQTT5-3.14.4-2
#[test]
fn mqtt5_3_14_2_2_the_server_sends_no_session_expiry_and_nothing_behind_its_disconnect() {
    let server = Server::start(&[]);
    let mut client = server.connect_persistent(V5, "device");
    client.subscribe("t", QoS::AtLeastOnce);
    // What makes it close; a message that would come back and a PINGREQ right behind.
    client.send_raw(b"\xc0\x01\0\x32\x06\0\x01t\0\x01\0\xc0\0");
    let bytes = last_packet(client);
    assert_eq!(bytes[0], 0xe0);
    assert_eq!(usize::from(bytes[1]), bytes.len() - 2, "one packet");
    let frame = ringmq::codec::frame(&bytes, u32::MAX).unwrap();
    let ringmq::codec::FrameStatus::Complete(frame) = frame else { panic!("a whole packet") };
    match Packet::decode(&frame, V5) {
        Ok(Packet::Disconnect(disconnect)) => {
            assert_eq!(disconnect.reason, MALFORMED);
            assert_eq!(disconnect.session_expiry_interval, None);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn mqtt5_3_14_2_3_disconnect_leaves_out_a_reason_string_that_makes_it_too_large() {
    leaves_out_the_reason_string(|client| client.send_raw(b"\xc0\x01\0"));
    leaves_out_the_reason_string(|client| {
        client.send_publish("#", "x", QoS::AtMostOnce);
    });
}

/// No numbers: 3.14.2.1, 3.14.2.2.
#[test]
fn what_has_its_default_may_be_left_out_of_disconnect() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "w");
    for (body, valid) in [
        (&b""[..], true),
        (b"\0", true),
        (b"\0\0", true),
        (b"\0\x05\x11\0\0\0\0", true),
        (b"\0\x01", false),
        (b"\0\0\0", false),
        (b"\0\x02\x01\0", false),
    ] {
        let mut client =
            server.connect_with(V5, "client", |connect| connect.will = Some(will_to("w")));
        client.send_raw(&packet(0xe0, &[body]));
        if valid {
            client.expect_closed();
            watcher.expect_nothing();
        } else {
            client.expect_disconnect(MALFORMED);
            watcher.take_message("w", "gone");
        }
    }
}

/// No numbers: 3.14.2.2.2.
#[test]
fn disconnect_may_change_the_session_expiry_but_not_from_zero() {
    let server = Server::start(&[]);
    let with_expiry =
        |interval| Disconnect { session_expiry_interval: Some(interval), ..Disconnect::default() };
    let mut watcher = subscriber(&server, "w");
    let mut client = server.connect_with(V5, "device", |connect| {
        connect.will = Some(will_to("w"));
    });
    client.send(&Packet::Disconnect(with_expiry(10)));
    client.expect_disconnect(ReasonCode::ProtocolError);
    watcher.take_message("w", "gone");
    assert!(!server.connect_persistent(V5, "device").connack.session_present);
    // To zero, it ends with the connection.
    server.connect_persistent(V5, "device").disconnect_with(with_expiry(0));
    let client = server.connect_persistent(V5, "device");
    assert!(!client.connack.session_present);
    client.disconnect_with(with_expiry(5));
    assert!(server.connect_persistent(V5, "device").connack.session_present);
}

#[test]
fn mqtt5_3_14_4_3_a_normal_disconnect_discards_the_will_and_others_do_not() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "w");
    for (reason, published) in [
        (ReasonCode::NORMAL_DISCONNECTION, false),
        (ReasonCode::DisconnectWithWillMessage, true),
        (ReasonCode::UnspecifiedError, true),
        (ReasonCode::PayloadFormatInvalid, true),
    ] {
        let client = server.connect_with(V5, "client", |connect| connect.will = Some(will_to("w")));
        client.disconnect_with(Disconnect::new(reason));
        match published {
            true => drop(watcher.take_message("w", "gone")),
            false => watcher.expect_nothing(),
        }
    }
}

#[test]
fn mqtt5_3_15_1_1_other_flags_of_auth_are_malformed() {
    let server = Server::start(&[]);
    for flags in 1..16 {
        refused(&server, &[0xf0 | flags, 0], MALFORMED);
    }
    // Without flags it is one, though out of place: the client has named no method.
    refused(&server, b"\xf0\0", ReasonCode::ProtocolError);
}

#[test]
fn mqtt5_3_15_2_1_auth_has_a_reason_of_its_table() {
    let server = Server::start(&[]);
    for reason in 1..=0xff {
        let auth = packet(0xf0, &[&[reason], b"\x04\x15\0\x01M"]);
        let known = ReasonCode::try_from(reason).is_ok();
        refused(&server, &auth, if known { ReasonCode::ProtocolError } else { MALFORMED });
    }
    // 3.15.2.2: a method must be there.
    refused(&server, b"\xf0\x02\x18\0", ReasonCode::ProtocolError);
    accepted(&server, b"");
}
