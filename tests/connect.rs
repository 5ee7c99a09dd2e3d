//! CONNECT and CONNACK: who gets in, and what the two sides agree on.

mod support;

use ringmq::codec::AckKind;
use support::{Packet, QoS, ReasonCode, Server, VERSIONS, Version, Will, over_shards};

const V5: Version = Version::V5;

#[test]
fn every_version_connects_and_is_told_the_limits_it_can_know() {
    over_shards(&[], |server| {
        for version in VERSIONS {
            let mut client = server.connect(version, "device-1");
            assert!(!client.connack.session_present);
            if version == V5 {
                assert_eq!(client.connack.receive_maximum, Some(100));
                assert_eq!(client.connack.maximum_packet_size, Some(1 << 20));
                assert_eq!(client.connack.topic_alias_maximum, 32);
                assert_eq!(client.connack.maximum_qos, QoS::ExactlyOnce);
                assert!(client.connack.retain_available);
                assert_eq!(client.connack.assigned_client_identifier, None);
                assert_eq!(client.connack.session_expiry_interval, None);
            }
            client.expect_nothing();
            client.disconnect();
        }
    });
}

#[test]
fn flags_change_what_is_announced() {
    let server = Server::start(&[
        "--receive-maximum=7",
        "--max-packet-size=4KiB",
        "--topic-alias-maximum=3",
        "--max-qos=1",
        "--retain-available=false",
        "--server-keep-alive=33",
        "--max-session-expiry=10",
        "--response-information=replies",
    ]);
    let client = server.connect_with(V5, "device", |connect| {
        connect.properties.session_expiry_interval = Some(11);
        connect.properties.request_response_information = true;
    });
    assert_eq!(client.connack.receive_maximum, Some(7));
    assert_eq!(client.connack.maximum_packet_size, Some(4096));
    assert_eq!(client.connack.topic_alias_maximum, 3);
    assert_eq!(client.connack.maximum_qos, QoS::AtLeastOnce);
    assert!(!client.connack.retain_available);
    assert_eq!(client.connack.server_keep_alive, Some(33));
    assert_eq!(client.connack.session_expiry_interval, Some(10));
    assert_eq!(client.connack.response_information.as_deref(), Some("replies/device"));
    let client = server.connect(V5, "other");
    assert_eq!(client.connack.response_information, None, "it was not asked for");
    assert_eq!(client.connack.session_expiry_interval, None, "the same as was asked for");
}

#[test]
fn an_empty_client_id_gets_one_that_works_on_its_shard() {
    over_shards(&[], |server| {
        let mut ids = Vec::new();
        for _ in 0..8 {
            let mut client = server.connect(V5, "");
            let id = client.connack.assigned_client_identifier.clone().expect("an assigned id");
            client.expect_nothing();
            let taking_over = server.connect(V5, &id);
            assert_eq!(taking_over.connack.assigned_client_identifier, None);
            client.expect_disconnect(ReasonCode::SessionTakenOver);
            ids.push(id);
        }
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 8);
        server.connect(Version::V3_1_1, "").expect_nothing();
    });
}

#[test]
fn an_empty_client_id_is_refused_where_it_is_not_allowed() {
    let server = Server::start(&[]);
    for (protocol, flags) in [(&b"\0\x06MQIsdp\x03"[..], 2), (b"\0\x04MQTT\x04", 0)] {
        let mut client = server.open(Version::V3_1_1);
        let mut packet = vec![0x10, protocol.len() as u8 + 5];
        packet.extend_from_slice(protocol);
        packet.extend_from_slice(&[flags, 0, 0, 0, 0]);
        client.send_raw(&packet);
        assert_eq!(client.expect_connack().reason, ReasonCode::ClientIdentifierNotValid);
        client.expect_closed();
    }
    let server = Server::start(&["--allow-empty-client-id=false"]);
    let mut client = server.try_connect(V5, "", |_| ());
    assert_eq!(client.connack.reason, ReasonCode::ClientIdentifierNotValid);
    client.expect_closed();
}

#[test]
fn an_unknown_protocol_level_is_told_so() {
    let server = Server::start(&[]);
    // [MQTT311-3.1.2-2]
    let mut client = server.open(Version::V3_1_1);
    client.send_raw(b"\x10\x0d\0\x04MQTT\x03\x02\0\0\0\x01a");
    assert_eq!(client.receive_or_closed().map(|reply| reply.len()), Some(4));
    client.expect_closed();
    let mut client = server.open(V5);
    client.send_raw(b"\x10\x0e\0\x04MQTT\x06\x02\0\0\0\0\x01a");
    assert_eq!(client.expect_connack().reason, ReasonCode::UnsupportedProtocolVersion);
    client.expect_closed();
}

#[test]
fn who_speaks_no_mqtt_gets_no_answer() {
    let server = Server::start(&[]);
    for bytes in [&b"\x10\x0c\0\x04HTTP\x04\x02\0\0\0\0"[..], b"GET / HTTP/1.1\r\n\r\n", b"\0\0"] {
        let mut client = server.open(Version::V3_1_1);
        client.send_raw(bytes);
        client.expect_closed();
    }
}

#[test]
fn a_bad_connect_is_refused_with_the_right_code() {
    let server = Server::start(&[]);
    let will = Will {
        topic: "w/#",
        payload: b"",
        qos: QoS::AtMostOnce,
        retain: false,
        properties: Default::default(),
    };
    let mut client = server.try_connect(V5, "a", |connect| connect.will = Some(will));
    assert_eq!(client.connack.reason, ReasonCode::TopicNameInvalid);
    client.expect_closed();
    // The reserved flag. [MQTT-3.1.2-3]
    let mut client = server.open(V5);
    client.send_raw(b"\x10\x0e\0\x04MQTT\x05\x03\0\0\0\0\x01a");
    assert_eq!(client.expect_connack().reason, ReasonCode::MalformedPacket);
    client.expect_closed();
    // Receive Maximum 0.
    let mut client = server.open(V5);
    client.send_raw(b"\x10\x11\0\x04MQTT\x05\x02\0\0\x03\x21\0\0\0\x01a");
    assert_eq!(client.expect_connack().reason, ReasonCode::ProtocolError);
    client.expect_closed();
    // An authentication method that the broker does not know.
    let mut client = server
        .try_connect(V5, "a", |connect| connect.properties.authentication_method = Some("magic"));
    assert_eq!(client.connack.reason, ReasonCode::BadAuthenticationMethod);
    client.expect_closed();
}

#[test]
fn nobody_is_let_in_without_authentication_if_anonymous_clients_are_not_allowed() {
    over_shards(&["--allow-anonymous=false"], |server| {
        for version in VERSIONS {
            let mut client = server.try_connect(version, "device", |_| ());
            assert_eq!(client.connack.reason, ReasonCode::NotAuthorized);
            client.expect_closed();
        }
    });
}

#[test]
fn packets_behind_connect_are_handled_wherever_the_client_lives() {
    over_shards(&[], |server| {
        for n in 0..20 {
            let mut client = server.open(V5);
            let id = format!("device-{n}");
            let mut bytes = Vec::new();
            let connect = Packet::Connect(ringmq::codec::Connect {
                version: V5,
                clean_start: true,
                keep_alive: 0,
                client_id: &id,
                will: None,
                user_name: Some("user"),
                password: Some(b"secret"),
                properties: Default::default(),
            });
            connect.encode(V5, &mut bytes).unwrap();
            bytes.extend_from_slice(b"\x82\x07\0\x01\0\0\x01t\x01");
            bytes.extend_from_slice(b"\x32\x08\0\x01t\0\x09\0hi");
            bytes.extend_from_slice(b"\xc0\0");
            // In two pieces, which may meet on different shards.
            let (first, second) = bytes.split_at(bytes.len() - 7);
            client.send_raw(first);
            client.send_raw(second);
            client.expect_connack();
            assert_eq!(client.expect_suback(1), [ReasonCode::GrantedQoS1]);
            client.expect_message("t", "hi");
            client.expect_ack(AckKind::Puback, 9);
            assert_eq!(client.receive().packet(), Packet::Pingresp);
        }
    });
}

/// Shows: MQTT5-3.1.2-22, MQTT5-3.2.2-22, MQTT311-3.1.2-24
#[test]
fn a_silent_client_is_cut_off_after_one_and_a_half_keep_alives() {
    let server = Server::start(&["--log-level=debug"]);
    let mut talker = server.connect_with(V5, "talker", |connect| connect.keep_alive = 1);
    let mut silent = server.connect_with(V5, "silent", |connect| connect.keep_alive = 1);
    let mut old = server.connect_with(Version::V3_1_1, "old", |connect| connect.keep_alive = 1);
    let mut patient = server.connect(V5, "patient");
    // Pings keep one of them alive until the others are gone.
    let ping_interval = std::time::Duration::from_millis(20);
    silent.stream().set_read_timeout(Some(ping_interval)).unwrap();
    while silent.stream().peek(&mut [0]).is_err() {
        talker.expect_nothing();
    }
    silent.stream().set_read_timeout(Some(support::PATIENCE)).unwrap();
    silent.expect_disconnect(ReasonCode::KeepAliveTimeout);
    old.expect_closed();
    talker.expect_nothing();
    patient.expect_nothing();
}

/// Shows: MQTT5-3.1.2-21, MQTT5-3.2.2-21
#[test]
fn the_servers_keep_alive_rules() {
    let server = Server::start(&["--server-keep-alive=1"]);
    let mut client = server.connect_with(V5, "client", |connect| connect.keep_alive = 600);
    assert_eq!(client.connack.server_keep_alive, Some(1));
    client.expect_disconnect(ReasonCode::KeepAliveTimeout);
}
