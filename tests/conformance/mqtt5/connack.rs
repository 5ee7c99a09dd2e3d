//! 3.2, CONNACK, and the limits that it announces.

use std::io::Read;

use super::{EVERY_QOS, V5, connect_accepted, connect_packet, connect_refused, refused, will_to};
use crate::support::{Client, Connect, QoS, ReasonCode, Server, Will, over_shards};

#[test]
fn mqtt5_3_2_0_1_nothing_comes_before_connack() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let mut client = server.connect_persistent(V5, "device");
        client.subscribe("t", QoS::ExactlyOnce);
        publisher.publish("t", "in flight", QoS::ExactlyOnce);
        client.expect_message("t", "in flight");
        client.cut();
        publisher.publish("t", "waits", QoS::AtLeastOnce);
        // `connect_persistent` takes nothing but a CONNACK for the first packet.
        let mut client = server.connect_persistent(V5, "device");
        assert!(client.connack.session_present);
        client.take_message("t", "in flight");
        client.take_message("t", "waits");
    });
}

#[test]
fn mqtt5_3_2_2_1_the_other_acknowledge_flags_are_zero() {
    let server = Server::start(&[]);
    let flags = |clean_start: bool| {
        let mut client = server.open(V5);
        client.send_connect("device", |connect| {
            connect.clean_start = clean_start;
            connect.properties.session_expiry_interval = Some(3_600);
        });
        let mut head = [0; 4];
        client.stream().read_exact(&mut head).expect("a CONNACK");
        assert_eq!((head[0], head[3]), (0x20, 0));
        head[2]
    };
    assert_eq!([flags(true), flags(false), flags(true)], [0, 1, 0]);
}

/// Shows: MQTT5-3.2.2-7
#[test]
fn mqtt5_3_2_2_6_a_refusal_never_has_a_session_and_closes() {
    let server = Server::start(&[]);
    server.connect_persistent(V5, "device").disconnect();
    // A will with a wildcard, for a client that has a session.
    let fields: [&[u8]; 2] = [b"\0\x06device", b"\0\0\x01#\0\0"];
    let refused = connect_packet(4, &fields);
    connect_refused(&server, &refused, ReasonCode::TopicNameInvalid);
    assert!(server.connect_persistent(V5, "device").connack.session_present);
}

#[test]
fn mqtt5_3_2_2_8_every_refusal_has_a_reason_of_the_table() {
    let flags = [
        "--max-qos=1",
        "--retain-available=false",
        "--allow-empty-client-id=false",
        "--validate-payload-format=true",
        "--max-connections=1",
    ];
    let server = Server::start(&flags);
    let mut seen = Vec::new();
    let mut provoke = |client_id: &'static str, adjust: &dyn Fn(&mut Connect<'static>)| {
        let mut client = server.try_connect(V5, client_id, |connect| adjust(connect));
        seen.push(client.connack.reason.value());
        client.expect_closed();
    };
    let with_will = |adjust: fn(&mut Will<'static>)| {
        move |connect: &mut Connect<'static>| {
            let mut will = will_to("w");
            adjust(&mut will);
            connect.will = Some(will);
        }
    };
    provoke("", &|_| ());
    provoke("a", &|connect| connect.properties.authentication_method = Some("magic"));
    provoke("a", &with_will(|will| will.topic = "#"));
    provoke("a", &with_will(|will| will.topic = "$SYS/x"));
    provoke("a", &with_will(|will| will.qos = QoS::ExactlyOnce));
    provoke("a", &with_will(|will| will.retain = true));
    provoke(
        "a",
        &with_will(|will| {
            will.payload = b"\xff";
            will.properties.publish.payload_format_indicator = Some(true);
        }),
    );
    let _only = server.connect(V5, "only");
    provoke("a", &|_| ());
    assert_eq!(seen, [0x85, 0x8c, 0x90, 0x87, 0x9b, 0x9a, 0x99, 0x97]);
    // Table 3-1 of the specification, without Success.
    let table = [
        0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97,
        0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
    ];
    assert!(seen.iter().all(|reason| table.contains(reason)), "{seen:x?}");
}

#[test]
fn mqtt5_3_2_2_9_a_lower_maximum_qos_is_announced() {
    for (flag, qos) in [("--max-qos=0", QoS::AtMostOnce), ("--max-qos=1", QoS::AtLeastOnce)] {
        let server = Server::start(&[flag]);
        assert_eq!(server.connect(V5, "client").connack.maximum_qos, qos);
    }
    let server = Server::start(&[]);
    // 3.2.2.3.4: 2 would be a protocol error; absence says it.
    assert_eq!(server.connect(V5, "client").connack.maximum_qos, QoS::ExactlyOnce);
}

#[test]
fn mqtt5_3_2_2_10_subscriptions_of_a_higher_qos_are_still_accepted() {
    let server = Server::start(&["--max-qos=0"]);
    let mut client = server.connect(V5, "client");
    for qos in EVERY_QOS {
        assert_eq!(client.subscribe("t", qos), ReasonCode::GRANTED_QOS_0);
        client.publish("t", "x", QoS::AtMostOnce);
        assert_eq!(client.expect_message("t", "x").qos, QoS::AtMostOnce);
    }
}

#[test]
fn mqtt5_3_2_2_11_a_publish_above_the_maximum_qos_ends_the_connection() {
    let server = Server::start(&["--max-qos=1"]);
    refused(&server, b"\x34\x06\0\x01t\0\x01\0", ReasonCode::QoSNotSupported);
    let mut client = server.connect(V5, "client");
    client.publish("t", "x", QoS::AtLeastOnce);
    client.expect_nothing();
}

#[test]
fn mqtt5_3_2_2_12_a_will_above_the_maximum_qos_is_refused() {
    let server = Server::start(&["--max-qos=1"]);
    let connect = |qos: QoS| connect_packet(6 | qos.value() << 3, &[b"\0\x01a", b"\0\0\x01w\0\0"]);
    connect_refused(&server, &connect(QoS::ExactlyOnce), ReasonCode::QoSNotSupported);
    connect_accepted(&server, &connect(QoS::AtLeastOnce));
}

#[test]
fn mqtt5_3_2_2_13_a_retained_will_is_refused_where_nothing_is_retained() {
    let server = Server::start(&["--retain-available=false"]);
    let fields: [&[u8]; 2] = [b"\0\x01a", b"\0\0\x01w\0\0"];
    connect_refused(&server, &connect_packet(0x26, &fields), ReasonCode::RetainNotSupported);
    assert!(!server.connect(V5, "client").connack.retain_available);
    connect_accepted(&server, &connect_packet(0x06, &fields));
}

#[test]
fn mqtt5_3_2_2_14_a_retained_publish_ends_the_connection_where_nothing_is_retained() {
    let server = Server::start(&["--retain-available=false"]);
    refused(&server, b"\x31\x05\0\x01t\0x", ReasonCode::RetainNotSupported);
    super::accepted(&server, b"\x30\x05\0\x01t\0x");
}

#[test]
fn mqtt5_3_2_2_15_a_packet_above_the_maximum_packet_size_ends_the_connection() {
    let server = Server::start(&["--max-packet-size=4KiB"]);
    let connect = || server.connect(V5, "client");
    assert_eq!(connect().connack.maximum_packet_size, Some(4_096));
    // First byte, two bytes of length, topic, property length; the payload is the rest.
    let payload = vec![b'x'; 4_096 - 7];
    let mut client = connect();
    client.subscribe("t", QoS::AtMostOnce);
    client.publish("t", &payload, QoS::AtMostOnce);
    assert_eq!(client.receive().len(), 4_096);
    // The length alone is enough to know.
    client.send_raw(b"\x30\xfe\x1f");
    client.expect_disconnect(ReasonCode::PacketTooLarge);
}

/// Shows: MQTT5-3.3.2-9
#[test]
fn mqtt5_3_2_2_17_an_alias_above_the_maximum_ends_the_connection() {
    let server = Server::start(&["--topic-alias-maximum=3"]);
    assert_eq!(server.connect(V5, "client").connack.topic_alias_maximum, 3);
    for alias in [4, 5, u16::MAX] {
        let [high, low] = alias.to_be_bytes();
        let publish = [0x30, 7, 0, 1, b't', 3, 0x23, high, low];
        refused(&server, &publish, ReasonCode::TopicAliasInvalid);
    }
    super::accepted(&server, b"\x30\x07\0\x01t\x03\x23\0\x03");
}

#[test]
fn mqtt5_3_2_2_18_any_alias_ends_the_connection_where_there_are_none() {
    let server = Server::start(&["--topic-alias-maximum=0"]);
    assert_eq!(server.connect(V5, "client").connack.topic_alias_maximum, 0);
    refused(&server, b"\x30\x07\0\x01t\x03\x23\0\x01", ReasonCode::TopicAliasInvalid);
    super::accepted(&server, b"\x30\x04\0\x01t\0");
}

/// No numbers: 3.2.2.3.2, 3.2.2.3.3. What is announced is what holds.
#[test]
fn the_session_expiry_and_receive_maximum_of_the_server_are_announced() {
    let server = Server::start(&["--max-session-expiry=100", "--receive-maximum=5"]);
    let expiry = |asked: Option<u32>| {
        let client: Client = server.connect_with(V5, "client", |connect| {
            connect.properties.session_expiry_interval = asked;
        });
        assert_eq!(client.connack.receive_maximum, Some(5));
        client.connack.session_expiry_interval
    };
    assert_eq!([None, Some(0), Some(100)].map(expiry), [None; 3]);
    assert_eq!([Some(101), Some(u32::MAX)].map(expiry), [Some(100); 2]);
}
