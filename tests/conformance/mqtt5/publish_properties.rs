//! 3.3.2, the topic name and the properties of PUBLISH.

use super::{EVERY_QOS, V5, accepted, packet, refused, subscriber};
use crate::support::{Message, QoS, ReasonCode, Server, over_shards};

const MALFORMED: ReasonCode = ReasonCode::MalformedPacket;

/// A PUBLISH of QoS 0 to `t` with these properties.
fn with(properties: &[u8]) -> Vec<u8> {
    packet(0x30, &[b"\0\x01t", &[properties.len() as u8], properties, b"x"])
}

#[test]
fn mqtt5_3_3_2_1_the_topic_name_comes_first_and_is_text() {
    let server = Server::start(&[]);
    for topic in [&b""[..], b"\0", b"\0\x05t\0", b"\0\x01\xff\0", b"\0\x01\0\0"] {
        refused(&server, &packet(0x30, &[topic]), MALFORMED);
    }
    accepted(&server, &packet(0x30, &["\0\x02ü\0".as_bytes()]));
}

/// Shows: MQTT5-4.7.0-1
#[test]
fn mqtt5_3_3_2_2_a_topic_name_with_a_wildcard_ends_the_connection() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "#");
    for topic in ["#", "+", "a/#", "a/+/b", "a+", "#a", "a/b#c"] {
        for qos in EVERY_QOS {
            let mut client = server.connect(V5, "client");
            client.send_publish(topic, "x", qos);
            client.expect_disconnect(ReasonCode::TopicNameInvalid);
        }
    }
    watcher.expect_nothing();
}

#[test]
fn mqtt5_3_3_2_3_the_topic_name_matches_the_filter() {
    over_shards(&[], |server| {
        let mut client = server.connect(V5, "client");
        let filters = ["a/b", "c/+", "d/#", "+/e", "/f"];
        filters.iter().for_each(|filter| {
            client.subscribe(filter, QoS::AtLeastOnce);
        });
        let mut publisher = server.connect(V5, "publisher");
        let (matching, others) = (
            ["a/b", "c/", "c/x", "d", "d/x/y", "x/e", "/e", "/f"],
            ["a", "a/b/", "c", "c/x/y", "dd", "e", "f", "A/b"],
        );
        for topic in others.iter().chain(&matching) {
            publisher.publish(topic, "x", QoS::AtLeastOnce);
        }
        let topics: Vec<_> = client.drain().into_iter().map(|message| message.topic).collect();
        assert_eq!(topics, matching);
    });
}

/// Shows: MQTT5-3.3.2-15, MQTT5-3.3.2-16, MQTT5-3.3.2-17, MQTT5-3.3.2-18, MQTT5-3.3.2-20
#[test]
fn mqtt5_3_3_2_4_what_describes_a_message_is_passed_on_unaltered() {
    over_shards(&[], |server| {
        let mut publisher = server.connect(V5, "publisher");
        let pairs = [("b", "2"), ("a", "1"), ("b", "2"), ("", "ü"), ("a", "0")];
        for qos in EVERY_QOS {
            for indicator in [None, Some(false), Some(true)] {
                let mut client = subscriber(server, "t");
                publisher.publish_with("t", b"x", qos, |publish| {
                    let properties = &mut publish.properties;
                    properties.payload_format_indicator = indicator;
                    properties.response_topic = Some("an/ anßwer");
                    properties.correlation_data = Some(b"\0\xff\x01");
                    properties.content_type = Some("");
                    properties.user_properties = (&pairs[..]).into();
                });
                let message = client.take_message("t", "x");
                let expected = Message {
                    topic: "t".into(),
                    payload: b"x".into(),
                    qos,
                    packet_id: message.packet_id,
                    payload_format_indicator: indicator,
                    response_topic: Some("an/ anßwer".into()),
                    correlation_data: Some(vec![0, 0xff, 1]),
                    content_type: Some(String::new()),
                    user_properties: pairs.map(|(n, v)| (n.into(), v.into())).into(),
                    ..Message::default()
                };
                assert_eq!(message, expected);
            }
        }
    });
}

#[test]
fn mqtt5_3_3_2_7_aliases_end_with_their_connection() {
    let server = Server::start(&[]);
    let mut watcher = subscriber(&server, "t");
    let mut client = server.connect_persistent(V5, "device");
    client.send_raw(b"\x30\x08\0\x01t\x03\x23\0\x01x");
    client.send_raw(b"\x30\x07\0\0\x03\x23\0\x01y");
    watcher.expect_message("t", "x");
    watcher.expect_message("t", "y");
    client.disconnect();
    let mut client = server.connect_persistent(V5, "device");
    assert!(client.connack.session_present);
    client.send_raw(b"\x30\x07\0\0\x03\x23\0\x01z");
    client.expect_disconnect(ReasonCode::ProtocolError);
    watcher.expect_nothing();
}

#[test]
fn mqtt5_3_3_2_8_alias_0_is_refused() {
    let server = Server::start(&[]);
    refused(&server, &with(b"\x23\0\0"), ReasonCode::TopicAliasInvalid);
    // No number: one that was not set before, no topic at all, and two aliases.
    refused(&server, b"\x30\x07\0\0\x03\x23\0\x01x", ReasonCode::ProtocolError);
    refused(&server, b"\x30\x04\0\0\0x", ReasonCode::ProtocolError);
    refused(&server, &with(b"\x23\0\x01\x23\0\x01"), ReasonCode::ProtocolError);
}

#[test]
fn mqtt5_3_3_2_12_every_alias_up_to_the_maximum_is_accepted() {
    let server = Server::start(&["--topic-alias-maximum=20"]);
    let mut watcher = subscriber(&server, "#");
    let mut client = server.connect(V5, "client");
    for round in ["first", "again"] {
        for alias in 1..=20 {
            let topic = format!("{round}/{alias}");
            client.publish_with(&topic, b"set", QoS::AtLeastOnce, |publish| {
                publish.properties.topic_alias = Some(alias);
            });
            watcher.take_message(&topic, "set");
        }
        for alias in (1..=20).rev() {
            client.publish_with("", b"used", QoS::ExactlyOnce, |publish| {
                publish.properties.topic_alias = Some(alias);
            });
            watcher.take_message(&format!("{round}/{alias}"), "used");
        }
    }
}

#[test]
fn mqtt5_3_3_2_13_the_response_topic_is_text() {
    let server = Server::start(&[]);
    refused(&server, &with(b"\x08\0\x01\xff"), MALFORMED);
    refused(&server, &with(b"\x08\0\x01\0"), MALFORMED);
    accepted(&server, &with("\x08\0\x02ü".as_bytes()));
}

#[test]
fn mqtt5_3_3_2_14_a_response_topic_with_a_wildcard_is_refused() {
    let server = Server::start(&[]);
    for topic in [&b"\x08\0\x01#"[..], b"\x08\0\x01+", b"\x08\0\x03a/#", b"\x08\0\x02a+"] {
        refused(&server, &with(topic), ReasonCode::ProtocolError);
    }
    accepted(&server, &with(b"\x08\0\x03a/b"));
}

#[test]
fn mqtt5_3_3_2_19_the_content_type_is_text() {
    let server = Server::start(&[]);
    refused(&server, &with(b"\x03\0\x01\xff"), MALFORMED);
    refused(&server, &with(b"\x03\0\x01\0"), MALFORMED);
    accepted(&server, &with(b"\x03\0\x09image/png"));
}

/// No numbers: 3.3.2.3. Each property but User Property may be there once.
#[test]
fn a_property_twice_is_a_protocol_error() {
    let server = Server::start(&[]);
    let once: [&[u8]; 5] =
        [b"\x01\0", b"\x02\0\0\0\x01", b"\x03\0\0", b"\x08\0\x01r", b"\x09\0\x01x"];
    for property in once {
        refused(&server, &with(&[property, property].concat()), ReasonCode::ProtocolError);
    }
    accepted(&server, &with(&once.concat()));
}
