//! 3.1, CONNECT: the fixed and the variable header, and what the server does with it.

use std::num::NonZeroU32;

use ringmq::codec::AckKind;

use super::{V5, connect_accepted, connect_packet, connect_refused, packet, refused, subscriber};
use crate::support::{Client, Packet, QoS, ReasonCode, Server, SubscriptionOptions, over_shards};

#[test]
fn mqtt5_3_1_0_1_the_first_packet_is_connect() {
    let server = Server::start(&[]);
    let others: [&[u8]; 9] = [
        b"\x20\x03\0\0\0",
        b"\x30\x04\0\x01t\0",
        b"\x40\x02\0\x01",
        b"\x62\x02\0\x01",
        b"\x82\x07\0\x01\0\0\x01t\0",
        b"\xa2\x06\0\x01\0\0\x01t",
        b"\xc0\0",
        b"\xe0\0",
        b"\xf0\0",
    ];
    for other in others {
        let mut client = server.open(V5);
        client.send_raw(other);
        // Not even a CONNECT behind it is answered.
        client.send_raw(&connect_packet(2, &[b"\0\x01a"]));
        client.expect_closed();
    }
}

/// Shows: MQTT5-3.2.0-2
#[test]
fn mqtt5_3_1_0_2_a_second_connect_is_a_protocol_error() {
    let server = Server::start(&[]);
    refused(&server, &connect_packet(2, &[b"\0\x06client"]), ReasonCode::ProtocolError);
    refused(&server, &connect_packet(2, &[b"\0\x05other"]), ReasonCode::ProtocolError);
}

#[test]
fn mqtt5_3_1_2_1_another_protocol_name_is_closed_on() {
    let server = Server::start(&[]);
    for name in [&b"\0\x04mqtt"[..], b"\0\x04MQTX", b"\0\x03MQT", b"\0\x05MQTT5", b"\0\0"] {
        let mut client = server.open(V5);
        client.send_raw(&packet(0x10, &[name, b"\x05\x02\0\0\0\0\x01a"]));
        client.expect_closed();
    }
    // The name of MQTT 3.1 with version 5: told in the words of 3.1 that it does not exist.
    let mut client = server.open(crate::support::Version::V3_1);
    client.send_raw(b"\x10\x10\0\x06MQIsdp\x05\x02\0\0\0\0\x01a");
    assert_eq!(client.expect_connack().reason, ReasonCode::UnsupportedProtocolVersion);
    client.expect_closed();
}

#[test]
fn mqtt5_3_1_2_2_another_version_is_told_so_and_closed_on() {
    let server = Server::start(&[]);
    for version in [6, 7, 0x7f] {
        let connect = packet(0x10, &[b"\0\x04MQTT", &[version], b"\x02\0\0\0\0\x01a"]);
        connect_refused(&server, &connect, ReasonCode::UnsupportedProtocolVersion);
    }
}

#[test]
fn mqtt5_3_1_2_3_the_reserved_connect_flag_is_checked() {
    let server = Server::start(&[]);
    connect_refused(&server, &connect_packet(3, &[b"\0\x01a"]), ReasonCode::MalformedPacket);
    connect_accepted(&server, &connect_packet(2, &[b"\0\x01a"]));
}

/// A session that outlives its connection, with a subscription, and a message that waits in it.
fn leave_session(server: &Server, publisher: &mut Client) {
    let mut client = server.connect_persistent(V5, "device");
    client.subscribe("t", QoS::AtLeastOnce);
    client.disconnect();
    publisher.publish("t", "waits", QoS::AtLeastOnce);
}

/// Shows: MQTT5-3.1.4-4, MQTT5-3.2.2-2
#[test]
fn mqtt5_3_1_2_4_clean_start_discards_the_session() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        leave_session(server, &mut publisher);
        let mut client = server.connect(V5, "device");
        assert!(!client.connack.session_present);
        publisher.publish("t", "is not for it", QoS::AtLeastOnce);
        client.expect_nothing();
    });
}

/// Shows: MQTT5-3.1.2-23, MQTT5-3.1.3-2, MQTT5-3.2.2-3, MQTT5-4.5.0-1
#[test]
fn mqtt5_3_1_2_5_without_clean_start_the_session_goes_on() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        leave_session(server, &mut publisher);
        // The state is that of the client identifier, and of no other.
        for other in ["devic", "device2", "Device"] {
            assert!(!server.connect_persistent(V5, other).connack.session_present);
        }
        let mut client = server.connect_persistent(V5, "device");
        assert!(client.connack.session_present);
        client.take_message("t", "waits");
        publisher.publish("t", "live", QoS::AtLeastOnce);
        client.take_message("t", "live");
    });
}

#[test]
fn mqtt5_3_1_2_6_without_a_session_there_is_a_new_one() {
    let server = Server::start(&[]);
    let mut client = server.connect_persistent(V5, "device");
    assert!(!client.connack.session_present);
    client.subscribe("t", QoS::AtMostOnce);
    client.publish("t", "x", QoS::AtMostOnce);
    client.expect_message("t", "x");
    client.disconnect();
    assert!(server.connect_persistent(V5, "device").connack.session_present);
}

/// A session without an expiry interval ends with its connection, also where the client does not
/// ask for a clean start (3.1.2.11.2).
#[test]
fn a_session_expiry_of_zero_ends_the_session_with_the_connection() {
    let server = Server::start(&[]);
    for interval in [None, Some(0)] {
        let connect = || {
            server.connect_with(V5, "device", |connect| {
                connect.clean_start = false;
                connect.properties.session_expiry_interval = interval;
            })
        };
        connect().disconnect();
        assert!(!connect().connack.session_present);
    }
}

#[test]
fn mqtt5_3_1_2_24_nothing_larger_than_the_client_takes_is_sent() {
    let server = Server::start(&[]);
    let mut client = server.connect_with(V5, "client", |connect| {
        connect.properties.maximum_packet_size = Some(100);
    });
    for qos in super::EVERY_QOS {
        client.subscribe("t", qos);
        let identifier = if qos == QoS::AtMostOnce { 0 } else { 2 };
        // First byte, length, topic, property length.
        let head = 1 + 1 + 3 + identifier + 1;
        let mut publisher = server.connect(V5, "publisher");
        publisher.publish("t", vec![b'x'; 101 - head], qos);
        publisher.publish("t", vec![b'x'; 100 - head], qos);
        let message = client.expect_publish();
        assert_eq!((message.payload.len(), message.qos), (100 - head, qos));
        client.acknowledge(&message);
        client.expect_nothing();
    }
}

#[test]
fn mqtt5_3_1_2_25_what_is_too_large_counts_as_delivered() {
    let server = Server::start(&[]);
    let mut publisher = server.connect(V5, "publisher");
    let connect = || {
        server.connect_with(V5, "client", |connect| {
            connect.clean_start = false;
            connect.properties.session_expiry_interval = Some(3_600);
            connect.properties.maximum_packet_size = Some(100);
            // One that were still owed would keep all others back.
            connect.properties.receive_maximum = Some(1);
        })
    };
    let mut client = connect();
    client.subscribe("t", QoS::ExactlyOnce);
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.publish("t", vec![b'x'; 200], qos);
        publisher.publish("t", "fits", qos);
        client.take_message("t", "fits");
    }
    client.disconnect();
    // The same with those that waited.
    publisher.publish("t", vec![b'x'; 200], QoS::AtLeastOnce);
    publisher.publish("t", "fits", QoS::AtLeastOnce);
    let mut client = connect();
    client.take_message("t", "fits");
    client.disconnect();
    // It is not owed to a connection that would take it, either.
    let mut client = server.connect_persistent(V5, "client");
    client.expect_nothing();
}

/// Shows: MQTT5-3.3.2-11
#[test]
fn mqtt5_3_1_2_26_no_alias_above_the_clients_maximum() {
    let server = Server::start(&[]);
    let mut client = server.connect_with(V5, "client", |connect| {
        connect.properties.topic_alias_maximum = 2;
    });
    client.subscribe("#", QoS::AtMostOnce);
    let mut used = Vec::new();
    for topic in ["a", "b", "c", "a", "b", "c"] {
        client.publish(topic, "x", QoS::AtMostOnce);
        used.push(client.expect_publish().alias);
    }
    assert!(used.iter().flatten().all(|alias| (1..=2).contains(alias)), "{used:?}");
    assert!(used.iter().any(Option::is_some), "the broker uses aliases at all");
}

#[test]
fn mqtt5_3_1_2_27_no_alias_unless_the_client_takes_any() {
    let server = Server::start(&[]);
    let mut client = subscriber(&server, "#");
    for _ in 0..3 {
        client.publish("a", "x", QoS::AtMostOnce);
        let message = client.expect_message("a", "x");
        assert_eq!(message.alias, None);
    }
}

#[test]
fn mqtt5_3_1_2_28_no_response_information_unless_asked_for() {
    let server = Server::start(&["--response-information=replies"]);
    for (asks, answer) in [(false, None), (true, Some("replies/client"))] {
        let client = server.connect_with(V5, "client", |connect| {
            connect.properties.request_response_information = asks;
        });
        assert_eq!(client.connack.response_information.as_deref(), answer);
    }
}

#[test]
fn mqtt5_3_1_2_29_no_reason_strings_but_in_connack_and_disconnect_unless_asked_for() {
    let server = Server::start(&[]);
    for asks in [true, false] {
        let mut client = server.connect_with(V5, "client", |connect| {
            connect.properties.request_problem_information = asks;
        });
        client.send_publish("$SYS/x", "x", QoS::AtLeastOnce);
        client.send_publish("$SYS/x", "x", QoS::ExactlyOnce);
        client.send_subscribe(&[("a/#/b", SubscriptionOptions::default())], 0);
        client.send_unsubscribe(&["a/#/b"]);
        for _ in 0..4 {
            let reply = client.receive();
            let (reason, text, properties) = match reply.packet() {
                Packet::Puback(ack) | Packet::Pubrec(ack) => {
                    (ack.reason, ack.reason_string, ack.user_properties)
                }
                Packet::Suback(ack) => {
                    (ack.reasons.iter().next().unwrap(), ack.reason_string, ack.user_properties)
                }
                Packet::Unsuback(ack) => {
                    (ack.reasons.iter().next().unwrap(), ack.reason_string, ack.user_properties)
                }
                other => panic!("an acknowledgement expected, not {other:?}"),
            };
            assert!(reason.is_error());
            assert_eq!(text.is_some(), asks, "{reason}", reason = reason.value());
            assert!(properties.is_empty());
        }
    }
}

/// No numbers: 3.1.2.11.
#[test]
fn properties_of_connect_out_of_range_are_refused() {
    let server = Server::start(&[]);
    let connect = |properties: &[u8]| {
        let length = [properties.len() as u8];
        packet(0x10, &[b"\0\x04MQTT\x05\x02\0\0", &length, properties, b"\0\x01a"])
    };
    let error = ReasonCode::ProtocolError;
    // Receive Maximum 0, Maximum Packet Size 0, Request Response Information 2, Request Problem
    // Information 2, Authentication Data without Authentication Method.
    connect_refused(&server, &connect(b"\x21\0\0"), error);
    connect_refused(&server, &connect(b"\x27\0\0\0\0"), error);
    connect_refused(&server, &connect(b"\x19\x02"), error);
    connect_refused(&server, &connect(b"\x17\x02"), error);
    connect_refused(&server, &connect(b"\x16\0\x01x"), error);
    // Each of those that may occur once, twice.
    let once: [&[u8]; 7] = [
        b"\x11\0\0\0\x01",
        b"\x21\0\x01",
        b"\x27\0\0\x01\0",
        b"\x22\0\x01",
        b"\x19\x01",
        b"\x17\x01",
        b"\x15\0\x01x",
    ];
    for property in once {
        connect_refused(&server, &connect(&[property, property].concat()), error);
    }
    // A property that only a PUBLISH has.
    connect_refused(&server, &connect(b"\x23\0\x01"), ReasonCode::MalformedPacket);
    connect_accepted(&server, &connect(b"\x21\0\x01\x27\0\0\x01\0\x19\x01\x17\0\x22\0\x01"));
    connect_accepted(&server, &connect(b"\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b"));
}

/// Shows: MQTT5-4.13.1-1, MQTT5-4.13.2-1
#[test]
fn mqtt5_3_1_4_1_a_connect_that_is_no_valid_packet_is_refused() {
    let server = Server::start(&[]);
    let malformed = ReasonCode::MalformedPacket;
    // It ends too early, anywhere after the version; or there is more.
    let whole = connect_packet(0xc2, &[b"\0\x01a", b"\0\x01u", b"\0\x01p"]);
    for length in 9..whole.len() {
        let mut cut = whole[..length].to_vec();
        cut[1] = length as u8 - 2;
        connect_refused(&server, &cut, malformed);
    }
    connect_refused(&server, &connect_packet(2, &[b"\0\x01a", b"x"]), malformed);
    connect_accepted(&server, &whole);
}

#[test]
fn mqtt5_3_1_4_2_further_restrictions_are_checked_and_closed_on() {
    let server = Server::start(&["--allow-anonymous=false"]);
    let connect = connect_packet(2, &[b"\0\x01a"]);
    connect_refused(&server, &connect, ReasonCode::NotAuthorized);
    let server = Server::start(&["--max-connections=1"]);
    let first = connect_accepted(&server, &connect);
    let second = connect_packet(2, &[b"\0\x01b"]);
    connect_refused(&server, &second, ReasonCode::QuotaExceeded);
    first.disconnect();
    connect_accepted(&server, &second);
}

#[test]
fn mqtt5_3_1_4_3_the_connection_before_is_told_that_it_is_taken_over() {
    over_shards(&[], |server| {
        for clean in [true, false] {
            let mut old = server.connect_persistent(V5, "device");
            let mut other = server.connect(V5, "another");
            let mut new = server.connect_with(V5, "device", |connect| {
                connect.clean_start = clean;
            });
            old.expect_disconnect(ReasonCode::SessionTakenOver);
            new.expect_nothing();
            other.expect_nothing();
        }
    });
}

#[test]
fn mqtt5_3_1_4_5_an_accepted_connect_is_acknowledged_with_success() {
    let server = Server::start(&[]);
    let mut client = server.open(V5);
    // 3.1.4: the client may send more before it has the CONNACK.
    let connect = connect_packet(2, &[b"\0\x01a"]);
    client.send_raw(&[&connect[..], b"\x32\x06\0\x01t\0\x09\0\xc0\0"].concat());
    assert_eq!(client.expect_connack().reason, ReasonCode::Success);
    client.expect_ack(AckKind::Puback, 9);
    assert_eq!(client.receive().packet(), Packet::Pingresp);
}

#[test]
fn mqtt5_3_1_4_6_nothing_behind_a_refused_connect_is_handled() {
    let server = Server::start(&["--max-qos=1"]);
    let mut watcher = server.connect(V5, "watcher");
    watcher.subscribe("#", QoS::AtLeastOnce);
    let publish = b"\x30\x05\0\x01t\0x";
    // A will of QoS 2, a malformed packet, an identifier that is taken over by nobody.
    let refusals = [
        (connect_packet(0x16, &[b"\0\x01a", b"\0\0\x01w\0\x01x"]), ReasonCode::QoSNotSupported),
        (connect_packet(3, &[b"\0\x07watcher"]), ReasonCode::MalformedPacket),
    ];
    for (connect, reason) in refusals {
        connect_refused(&server, &[&connect[..], publish].concat(), reason);
        watcher.expect_nothing();
    }
    watcher.send_raw(publish);
    watcher.expect_message("t", "x");
}

/// 3.1.2.11.4: the limit holds for the whole packet, also for what answers the client.
#[test]
fn an_answer_that_the_client_does_not_take_ends_the_connection() {
    let server = Server::start(&[]);
    let mut client = server.connect_with(V5, "client", |connect| {
        connect.properties.maximum_packet_size = Some(30);
    });
    let filters = vec![("t", SubscriptionOptions::default()); 30];
    client.send_subscribe(&filters, NonZeroU32::MIN.get());
    client.expect_disconnect(ReasonCode::PacketTooLarge);
}
